package espalier.data;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import espalier.format.AtomicFiles;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.StreamSupport;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TokenizerTest {

  /** As {@code make_format_fixtures.py} writes it: it asks for BOS, truncation and padding. */
  private static final Path FIXTURE = Path.of("src/test/resources/format/tokenizer");

  @TempDir Path folder;

  @Test
  void givesTheIdsOfItsLibraryAndNothingElse() throws IOException {
    JsonNode expected = new ObjectMapper().readTree(FIXTURE.resolve("expected.json").toFile());
    try (Tokenizer tokenizer = Tokenizer.open(FIXTURE)) {
      for (int i = 0; i < expected.get("texts").size(); i++) {
        String text = expected.get("texts").get(i).textValue();
        int[] ids =
            StreamSupport.stream(expected.get("ids").get(i).spliterator(), false)
                .mapToInt(JsonNode::intValue)
                .toArray();
        assertArrayEquals(ids, tokenizer.encode(text), text);
        assertEquals(text, tokenizer.decode(ids));
      }
    }
  }

  @Test
  void bytesAreTheTokensOfTheByteTokenizer() {
    writeByteTokenizer(folder);
    String text = "class A { /* naïve — 日本 🌿 */ }\n\tint x = 10;  ";
    byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
    int[] expected = new int[bytes.length];
    for (int i = 0; i < bytes.length; i++) {
      expected[i] = Byte.toUnsignedInt(bytes[i]);
    }
    try (Tokenizer tokenizer = Tokenizer.open(folder)) {
      assertArrayEquals(expected, tokenizer.encode(text));
      assertEquals(text, tokenizer.decode(expected));
      assertArrayEquals(
          new int[] {ByteTokenizer.BOS, 'a', ByteTokenizer.EOS}, tokenizer.encode("<s>a</s>"));
      assertEquals("a", tokenizer.decode(new int[] {ByteTokenizer.BOS, 'a', ByteTokenizer.EOS}));
      assertTrue(tokenizer.hasBos());
    }
  }

  @Test
  void itsConfigurationMaySayThatThereIsNoBos() throws IOException {
    writeByteTokenizer(folder);
    Files.writeString(folder.resolve("tokenizer_config.json"), "{\"bos_token\": null}");
    try (Tokenizer tokenizer = Tokenizer.open(folder)) {
      assertFalse(tokenizer.hasBos());
    }
    Files.writeString(folder.resolve("tokenizer_config.json"), "{\"bos_token\": null");
    assertRefused(
        folder.resolve("tokenizer_config.json"), () -> Tokenizer.open(folder), "not valid JSON");
  }

  @Test
  void refusesWhatIsNoTokenizer() throws IOException {
    Path file = folder.resolve("tokenizer.json");
    assertRefused(file, () -> Tokenizer.open(folder), "no such file");
    for (String text : new String[] {"{}", "{\"model\": {\"type\": \"Future\"}}"}) {
      Files.writeString(file, text);
      assertRefused(file, () -> Tokenizer.open(folder), "not a tokenizer definition");
    }
  }

  /** What the library would end the process for. */
  @Test
  void refusesMalformedFilesBeforeTheLibrarySeesThem() throws IOException {
    Path file = folder.resolve("tokenizer.json");
    String whole = Files.readString(FIXTURE.resolve("tokenizer.json"));
    for (int length = 1; length < whole.length(); length += 397) {
      Files.writeString(file, whole.substring(0, length));
      assertRefused(file, () -> Tokenizer.open(folder), "not valid JSON");
    }
    Files.writeString(file, whole.replaceFirst("\"decoder\":", "\"decoder\","));
    assertRefused(file, () -> Tokenizer.open(folder), "not valid JSON");
    Files.writeString(file, whole + "x");
    assertRefused(file, () -> Tokenizer.open(folder), "not valid JSON");
    Files.writeString(file, "");
    assertRefused(file, () -> Tokenizer.open(folder), "no JSON object");
  }

  static void writeByteTokenizer(Path folder) {
    AtomicFiles.write(folder.resolve("tokenizer.json"), ByteTokenizer.definition());
    AtomicFiles.write(folder.resolve("tokenizer_config.json"), ByteTokenizer.configuration());
  }
}
