package espalier.format;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class StrictJsonTest {

  private static final Path FILE = Path.of("config.json");

  @TempDir Path folder;

  @Test
  void givesValuesByType() {
    StrictJson json =
        StrictJson.parse(FILE, "{\"n\": 3, \"x\": 1e-5, \"s\": \"a\", \"b\": true, \"z\": null}");
    assertEquals(3, json.positive("n"));
    assertEquals(3.0, json.number("n"));
    assertEquals(1e-5, json.number("x"));
    assertEquals("a", json.text("s"));
    assertTrue(json.flag("b", false));
    assertFalse(json.has("z"));
    assertEquals(7, json.positive("z", 7));
    assertEquals("d", json.text("absent", "d"));
    assertTrue(json.object("z").isEmpty());
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      textBlock =
          """
          {"a": 1, "a": 2}                | line 1: key a appears twice
          {"a": {"b": 1, "b": 1}}         | key b appears twice
          {"a": 1} x                      | not valid JSON
          {"a": 1}{"a": 1}                | not valid JSON
          {"a": NaN}                      | not valid JSON
          {"a": 01}                       | not valid JSON
          {'a': 1}                        | not valid JSON
          {"a": 1,}                       | not valid JSON
          {"a": 1                         | not valid JSON
          [1]                             | no JSON object
          ``                              | no JSON object
          """)
  void refusesMalformedText(String text, String fault) {
    assertRefused(FILE, () -> StrictJson.parse(FILE, text), fault);
  }

  /** As Python's json.dumps writes them, of which no reader may make a number. */
  @Test
  void linesOfDataMayHoldNoNumbersAndLongTexts() {
    String text = "word ".repeat(4_100_000);
    StrictJson json =
        StrictJson.line(FILE, 1, "{\"score\": NaN, \"a\": -Infinity, \"s\": \"" + text + "\"}");
    assertEquals(text, json.text("s"));
    assertRefused(FILE, () -> json.number("score"), "line 1: score is not a number");
    assertRefused(FILE, () -> json.integer("a"), "line 1: a is not an integer");
  }

  @Test
  void namesTheLine() {
    assertRefused(FILE, () -> StrictJson.parse(FILE, "{\n\"a\": 1,\n\"b\": }"), "line 3:");
  }

  @Test
  void namesTheKeyOfAWrongValue() {
    StrictJson json =
        StrictJson.parse(
            FILE,
            "{\"n\": 0, \"big\": 4294967296, \"huge\": 1e999, \"half\": 1.5, \"s\": \"1\","
                + " \"o\": {\"i\": \"x\"}}");
    assertRefused(FILE, () -> json.positive("n"), "n is 0, not a positive size");
    assertRefused(FILE, () -> json.positive("big"), "big is 4294967296");
    assertRefused(FILE, () -> json.number("huge"), "huge is not a number");
    assertRefused(FILE, () -> json.integer("half"), "half is not an integer");
    assertRefused(FILE, () -> json.integer("s"), "s is not an integer");
    assertRefused(FILE, () -> json.flag("s", false), "s is neither true nor false");
    assertRefused(FILE, () -> json.text("n"), "n is not a string");
    assertRefused(FILE, () -> json.text("absent"), "absent is missing");
    assertRefused(FILE, () -> json.object("s"), "s is not an object");
    assertRefused(FILE, () -> json.object("o").orElseThrow().integer("i"), "o.i is not an integer");
  }

  @Test
  void refusesFilesThatAreNoText() throws IOException {
    Path missing = folder.resolve("config.json");
    assertRefused(missing, () -> StrictJson.read(missing), "no such file");
    assertRefused(folder, () -> StrictJson.read(folder), "cannot be read");
    Path binary = Files.write(folder.resolve("binary.json"), new byte[] {(byte) 0xFF, 0, 1});
    assertRefused(binary, () -> StrictJson.read(binary), "cannot be read as text");
  }
}
