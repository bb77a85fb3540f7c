package espalier.data;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import espalier.Abroad;
import espalier.format.ModelConfig;
import java.io.IOException;
import java.io.RandomAccessFile;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class TokenCacheTest {

  private static final String TEXT = "Ein Text, der sich wiederholt. ".repeat(1_000);
  private static final long SMALLEST = 1_000;

  @TempDir Path folder;
  private final List<String> warnings = new ArrayList<>();
  private Path text;

  @BeforeEach
  void write() throws IOException {
    TokenizerTest.writeByteTokenizer(folder);
    text = Files.writeString(folder.resolve("a.txt"), TEXT);
  }

  private TokenRows read(int context, Path... files) {
    TokenCache cache = new TokenCache(folder.resolve("cache"), warnings::add, SMALLEST);
    return TokenRows.read(List.of(files), config(), folder, context, cache);
  }

  private static ModelConfig config() {
    return ModelConfig.of(
        Path.of("config.json"),
        JsonNodeFactory.instance
            .objectNode()
            .put("model_type", "llama")
            .put("hidden_size", 4)
            .put("num_hidden_layers", 1)
            .put("num_attention_heads", 2)
            .put("intermediate_size", 3)
            .put("vocab_size", ByteTokenizer.VOCAB)
            .put("max_position_embeddings", 128)
            .put("bos_token_id", ByteTokenizer.BOS)
            .put("eos_token_id", ByteTokenizer.EOS));
  }

  private List<Path> kept() throws IOException {
    if (!Files.exists(folder.resolve("cache"))) {
      return List.of();
    }
    try (Stream<Path> files = Files.list(folder.resolve("cache"))) {
      return files.sorted().toList();
    }
  }

  private static void assertSame(TokenRows expected, TokenRows actual) {
    assertEquals(expected.count(), actual.count());
    assertEquals(expected.context(), actual.context());
    assertEquals(-1, expected.ids().mismatch(actual.ids()));
  }

  /** What one user tokenized is there for another, whatever they speak. */
  @Test
  void keepsTextsOnceForEveryCountry() throws Exception {
    read(100, text);
    Abroad.run(() -> read(100, text));
    assertEquals(1, kept().size());
  }

  @Test
  void givesTheSameRowsAsWithout() throws IOException {
    TokenRows without = TokenRows.read(List.of(text), config(), folder, 100);
    assertSame(without, read(100, text));
    assertEquals(1, kept().size());
    byte[] before = Files.readAllBytes(kept().getFirst());
    assertSame(without, read(100, text));
    assertArrayEquals(before, Files.readAllBytes(kept().getFirst()));
    assertEquals(List.of(), warnings);
    int[] row = new int[100];
    read(100, text).copyRow(3, row);
    assertEquals(ByteTokenizer.BOS, row[0]);
  }

  /** What was kept is what is used: a changed entry with a right checksum shows in the rows. */
  @Test
  void doesNotTokenizeAgain() throws IOException {
    TokenRows first = read(100, text);
    Path other = Files.writeString(folder.resolve("b.txt"), "x" + TEXT);
    read(100, other);
    Path a = kept().get(0);
    Path b = kept().get(1);
    byte[] swapped = Files.readAllBytes(a);
    Files.write(a, Files.readAllBytes(b));
    Files.write(b, swapped);
    assertNotEquals(-1, first.ids().mismatch(read(100, text).ids()));
    assertSame(first, read(100, other));
  }

  @Test
  void eachCombinationIsKeptOnItsOwn() throws IOException {
    read(100, text);
    read(50, text);
    Path other = Files.writeString(folder.resolve("b.txt"), TEXT + "!");
    read(100, text, other);
    read(100, other, text);
    assertEquals(4, kept().size());
    Files.writeString(
        folder.resolve("tokenizer.json"), Files.readString(folder.resolve("tokenizer.json")) + " ");
    read(100, text);
    assertEquals(5, kept().size());
    Files.writeString(folder.resolve("tokenizer_config.json"), "{\"bos_token\": null}");
    read(100, text);
    assertEquals(6, kept().size());
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 8, 16, 24, 40, 4000})
  void tokenizesAgainWhatIsDamaged(int at) throws IOException {
    TokenRows whole = read(100, text);
    Path file = kept().getFirst();
    byte[] before = Files.readAllBytes(file);
    try (RandomAccessFile damage = new RandomAccessFile(file.toFile(), "rw")) {
      damage.seek(at);
      int old = damage.read();
      damage.seek(at);
      damage.write(old ^ 1);
    }
    assertSame(whole, read(100, text));
    assertEquals(1, warnings.size());
    assertTrue(warnings.getFirst().contains("damaged"), warnings.getFirst());
    assertArrayEquals(before, Files.readAllBytes(file));
  }

  @Test
  void tokenizesAgainWhatIsCutOff() throws IOException {
    TokenRows whole = read(100, text);
    byte[] bytes = Files.readAllBytes(kept().getFirst());
    for (int length : new int[] {0, 7, 32, bytes.length - 4}) {
      Files.write(kept().getFirst(), Arrays.copyOf(bytes, length));
      assertSame(whole, read(100, text));
    }
    assertEquals(4, warnings.size());
  }

  @Test
  void worksWhereNothingCanBeKept() throws IOException {
    Files.writeString(folder.resolve("cache"), "a file, not a folder");
    assertSame(TokenRows.read(List.of(text), config(), folder, 100), read(100, text));
    assertEquals(1, warnings.size());
    assertTrue(warnings.getFirst().contains("cannot be written"), warnings.getFirst());
  }

  @Test
  void keepsNoSmallTexts() throws IOException {
    read(10, Files.writeString(folder.resolve("small.txt"), "too short to be worth it"));
    assertEquals(List.of(), kept());
  }

  @Test
  void theEnvironmentSaysWhere() throws IOException {
    Path below = Files.writeString(folder.resolve("below.txt"), "x".repeat(1_000_000));
    text = Files.writeString(text, TEXT.repeat(1 + (int) (TokenCache.SMALLEST / TEXT.length())));
    TokenCache off = TokenCache.of(Map.of("ESPALIER_CACHE", "off"), warnings::add);
    TokenRows.read(List.of(text), config(), folder, 100, off);
    Path given = folder.resolve("given");
    TokenCache there = TokenCache.of(Map.of("ESPALIER_CACHE", given.toString()), warnings::add);
    TokenRows.read(List.of(text), config(), folder, 100, there);
    TokenRows.read(List.of(below), config(), folder, 100, there);
    Path home = folder.resolve("home");
    TokenCache users = TokenCache.of(Map.of("HOME", home.toString()), warnings::add);
    TokenRows.read(List.of(text), config(), folder, 100, users);
    try (Stream<Path> files = Files.walk(folder)) {
      assertEquals(
          List.of(given.resolve("tokens"), home.resolve(".cache/espalier/tokens")),
          files.filter(f -> f.toString().endsWith(".ids")).map(Path::getParent).sorted().toList());
    }
  }
}
