package espalier.data;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
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

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      textBlock =
          """
          {"text": "a"                 | not valid JSON
          {"text": "a"} {"text": "b"}  | not valid JSON
          {"text": "a", "text": "b"}   | not valid JSON
          {"txt": "a"}                 | no string field "text"
          {"text": 3}                  | no string field "text"
          {"text": null}               | no string field "text"
          ["a"]                        | no string field "text"
          "a"                          | no string field "text"
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
    "a.parquet, .parquet is not supported",
    "a.csv, .csv is not supported",
    "a, a name without a kind is not supported"
  })
  void refusesOtherKindsByName(String name, String fault) throws IOException {
    Path file = Files.createFile(folder.resolve(name));
    assertRefused(file, () -> read(file), fault, ".txt, .jsonl or .npy");
  }

  private static List<String> read(Path file) {
    List<String> documents = new ArrayList<>();
    Documents.read(file, documents::add);
    return documents;
  }
}
