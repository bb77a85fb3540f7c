package espalier.data;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertEquals;

import com.github.luben.zstd.ZstdOutputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.zip.GZIPOutputStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class DocumentsTest {

  @TempDir Path folder;

  @Test
  void aTextFileIsOneDocument() throws IOException {
    Path file = Files.writeString(folder.resolve("a.txt"), "one\n\ntwo — é\n");
    assertEquals(List.of("one\n\ntwo — é\n"), read(file));
  }

  @Test
  void aLineOfJsonIsOneDocument() throws IOException {
    Path file =
        Files.writeString(
            folder.resolve("a.jsonl"),
            "{\"text\": \"one\\ntwo\", \"id\": 3}\n\n{\"text\": \"\"}\r\n{\"text\": \"\\u00e9\"}");
    assertEquals(List.of("one\ntwo", "", "é"), read(file));
  }

  /** As Python's json.dumps writes them. */
  @Test
  void charactersMayBeEscaped() throws IOException {
    Path file = folder.resolve("a.jsonl");
    Files.writeString(file, "{\"text\": \"\\ud83c\\udf3f \\u00e9\\u0000\"}\n");
    assertEquals(List.of("🌿 é\0"), read(file));
  }

  @Test
  void otherFieldsMayBeNoNumbers() throws IOException {
    Path file = folder.resolve("a.jsonl");
    Files.writeString(file, "{\"score\": NaN, \"a\": [-Infinity, Infinity], \"text\": \"one\"}\n");
    assertEquals(List.of("one"), read(file));
    Files.writeString(file, "{\"text\": NaN}\n");
    assertRefused(file, () -> read(file), "line 1: has no field \"text\" with a string");
  }

  @Test
  void aLineMayBeLong() throws IOException {
    String text = "word ".repeat(4_100_000); // more than the 20 M characters that Jackson takes
    Path file = Files.writeString(folder.resolve("a.jsonl"), "{\"text\": \"" + text + "\"}");
    assertEquals(List.of(text), read(file));
  }

  @ParameterizedTest
  @ValueSource(ints = {27, 28, 31})
  void unpacksWhatLooksFarBack(int window) throws IOException {
    Path file = folder.resolve("a.txt.zst");
    int exponent = (window - 10) << 3; // of the frame's window, RFC 8878, 3.1.1.1.2
    Files.write(
        file,
        HexFormat.of().parseHex("28b52ffd00%02x190000".formatted(exponent) + "6f6e65")); // "one"
    assertEquals(List.of("one"), read(file));
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      textBlock =
          """
          {"text": "a"                 | not valid JSON
          {"text": "a"} {"text": "b"}  | not valid JSON
          {"text": "a", "text": "b"}   | not valid JSON
          {"txt": "a"}                 | has no field "text" with a string
          {"text": 3}                  | has no field "text" with a string
          {"text": null}               | has no field "text" with a string
          ["a"]                        | has no field "text" with a string
          "a"                          | has no field "text" with a string
          {"text": "a \\ud83c"}        | \\ud83c is half of a surrogate pair
          {"text": "\\udf3f a"}        | \\udf3f is half of a surrogate pair
          {"text": "\\ud83c\\ud83c\\udf3f"} | \\ud83c is half of a surrogate pair
          """)
  void namesTheLineThatCannotBeUsed(String line, String fault) throws IOException {
    Path file = folder.resolve("a.jsonl");
    Files.writeString(file, "{\"text\": \"a\"}\n\n" + line + "\n{\"text\": \"b\"}\n");
    assertRefused(file, () -> read(file), "line 3: " + fault);
  }

  @ParameterizedTest
  @ValueSource(strings = {"a.txt", "a.jsonl"})
  void refusesFilesWithoutText(String name) throws IOException {
    Path file = folder.resolve(name);
    assertRefused(file, () -> read(file), "no such file");
    Files.createFile(file);
    assertRefused(file, () -> read(file), "is empty");
    Files.write(file, new byte[] {'a', (byte) 0xFF, 'b'});
    assertRefused(file, () -> read(file), "not UTF-8 text");
    Files.delete(file);
    Files.createDirectory(file);
    assertRefused(file, () -> read(file), "no such file");
  }

  @ParameterizedTest
  @CsvSource({
    "a.jsonl.bz2, .bz2 is not supported",
    "a.npy.gz, .gz is not supported",
    "a.csv, .csv is not supported",
    "a, a name without a kind is not supported"
  })
  void refusesOtherKindsByName(String name, String fault) throws IOException {
    Path file = Files.createFile(folder.resolve(name));
    assertRefused(file, () -> read(file), fault, ".parquet or .npy");
  }

  @ParameterizedTest
  @ValueSource(strings = {".gz", ".zst"})
  void unpacksWhatIsPacked(String kind) throws IOException {
    Path lines = folder.resolve("a.jsonl" + kind);
    Files.write(lines, packed(kind, "{\"text\": \"one\"}\n{\"text\": \"é\"}\n"));
    assertEquals(List.of("one", "é"), read(lines));
    Path text = folder.resolve("a.txt" + kind);
    Files.write(text, packed(kind, "one\ntwo — é\n"));
    assertEquals(List.of("one\ntwo — é\n"), read(text));
    Files.write(lines, packed(kind, "{\"text\": \"one\"}\n{\"txt\": 3}\n"));
    assertRefused(lines, () -> read(lines), "line 2: has no field \"text\" with a string");
    Files.write(text, packed(kind, ""));
    assertRefused(text, () -> read(text), "is empty");
  }

  @ParameterizedTest
  @ValueSource(strings = {".gz", ".zst"})
  void refusesDamagedArchives(String kind) throws IOException {
    byte[] whole = packed(kind, "{\"text\": \"one\"}\n".repeat(5000) + Math.random());
    Path file = folder.resolve("a.jsonl" + kind);
    for (int length : new int[] {1, 5, whole.length / 2, whole.length - 1}) {
      Files.write(file, Arrays.copyOf(whole, length));
      assertRefused(file, () -> read(file), "damaged or cut off");
    }
    Files.writeString(file, "{\"text\": \"not packed at all\"}");
    assertRefused(file, () -> read(file), "damaged or cut off");
  }

  private static byte[] packed(String kind, String text) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try (OutputStream out =
        kind.equals(".gz") ? new GZIPOutputStream(bytes) : new ZstdOutputStream(bytes)) {
      out.write(text.getBytes(StandardCharsets.UTF_8));
    }
    return bytes.toByteArray();
  }

  /** Written by pyarrow; see bench/reference/make_parquet_fixtures.py. */
  @ParameterizedTest
  @ValueSource(strings = {"none", "snappy", "gzip", "zstd", "plain", "large_string"})
  void readsTheTextColumnOfParquet(String name) {
    assertEquals(
        List.of("one", "zwei\nZeilen", "trois – «é»", "", "fünf 🌱", "one", "six ".repeat(50)),
        read(Path.of("src/test/resources/parquet", name + ".parquet")));
  }

  @ParameterizedTest
  @CsvSource({
    "null, row 2: its text is null",
    "no_text, no column \"text\"",
    "numbers, column \"text\" holds no strings",
    "lists, no column \"text\"",
    "empty, is empty"
  })
  void refusesParquetWithoutTexts(String name, String fault) {
    Path file = Path.of("src/test/resources/parquet", name + ".parquet");
    assertRefused(file, () -> read(file), fault);
  }

  @Test
  void refusesDamagedParquet() throws IOException {
    byte[] whole = Files.readAllBytes(Path.of("src/test/resources/parquet/snappy.parquet"));
    Path file = folder.resolve("a.parquet");
    for (int length : new int[] {0, 3, 100, whole.length - 1}) {
      Files.write(file, Arrays.copyOf(whole, length));
      assertRefused(file, () -> read(file), "no parquet file that can be read");
    }
  }

  private static List<String> read(Path file) {
    return Texts.read(file);
  }
}
