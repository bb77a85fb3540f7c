package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.format.InputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Questions in the formats that public data sets have; {@code bench/reference} has the scores. */
class QuestionFileTest {

  private static final Path PARQUET = Path.of("src/test/resources/parquet");

  @TempDir private Path temp;

  private Path file(String name, String text) throws IOException {
    return Files.writeString(temp.resolve(name), text);
  }

  @Test
  void hellaSwagAsParquet() {
    List<Question> read = QuestionFile.read(PARQUET.resolve("hellaswag.parquet"));
    assertEquals(
        List.of(
            Question.of("Run: A man runs. He", List.of("a", "b", "c", "d"), 2),
            // the second context's end is empty: the space before it stays, brackets go
            Question.of("Swim: She swims.", List.of("e é", "f", "g", "h"), 0)),
        read);
  }

  /** Python's white space, and its dot. */
  @Test
  void hellaSwagIsStrippedAsByPython() throws IOException {
    Path json =
        file(
            "hellaswag.jsonl",
            """
            {"activity_label": "\\u00a0Run", "ctx_a": "A man [x\\u2028y\\rz]runs.", "ctx_b": "he\\u202f",
             "endings": ["[a\\nb]\\u0085", "b", "c", "d"], "label": 1}
            """
                .replace("\n ", " "));
    assertEquals(
        List.of(Question.of("Run: A man runs. He", List.of("[a\nb]", "b", "c", "d"), 1)),
        QuestionFile.read(json));
  }

  @Test
  void mmluAsParquet() {
    Question second = QuestionFile.read(PARQUET.resolve("mmlu.parquet")).get(1);
    String head =
        "The following are multiple choice questions (with answers) about high school biology.\n\n";
    assertEquals(
        Question.of(
            head + "How?\nA. e é\nB. f\nC. g\nD. h\nAnswer:", List.of("A", "B", "C", "D"), 1),
        second);
  }

  @Test
  void truthfulQaAsParquet() {
    List<Question> read = QuestionFile.read(PARQUET.resolve("truthfulqa.parquet"));
    assertEquals(2, read.size());
    assertEquals(List.of(true, false), read.get(0).right());
    assertEquals(List.of(true, true, false), read.get(1).right());
    assertTrue(!read.get(0).several() && read.get(1).several());
    assertTrue(read.get(0).context().startsWith("Q: What is human life"), read.get(0).context());
    assertTrue(
        read.get(0).context().endsWith("in Barcelona, Spain.\n\nQ: Why?\nA:"),
        read.get(0).context());
  }

  @Test
  void mmluAsCsv() throws IOException {
    Path csv =
        file("mmlu.csv", "\"What, then?\n\"\"Yes\"\"\",1,2,3,\"four, five\",C\r\nB?,1,2,3,4,A\n");
    List<Question> read = QuestionFile.read(csv);
    assertEquals(
        Question.of(
            "What, then?\n\"Yes\"\nA. 1\nB. 2\nC. 3\nD. four, five\nAnswer:",
            List.of("A", "B", "C", "D"),
            2),
        read.getFirst());
    assertEquals(2, read.size());
  }

  @Test
  void truthfulQaAsCsv() throws IOException {
    Path csv =
        file(
            "TruthfulQA.csv",
            "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers,Source\n"
                + "A,B,Why?,yes,yes; perhaps,no; never;,C\n");
    List<Question> read = QuestionFile.read(csv);
    assertEquals(List.of("yes", "no", "never"), read.get(0).choices());
    assertEquals(List.of("yes", "perhaps", "no", "never"), read.get(1).choices());
    assertEquals(List.of(true, true, false, false), read.get(1).right());
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "{\"context\":\"x\",\"choices\":[\"a\",\"b\"],\"label\":2} | label",
        "{\"context\":\"x\",\"choices\":[\"a\",\"b\"]} | label",
        "{\"context\":\"x\",\"choices\":[\"a\"],\"label\":0} | choices",
        "{\"context\":\"x\",\"choices\":[\"a\",3],\"label\":0} | choices[1]",
        "{\"context\":\"x\",\"choices\":\"ab\",\"label\":0} | choices",
        "{\"text\":\"x\"} | context",
        "{\"context\":\"x\", | not valid JSON",
        "[] | no JSON object",
      })
  void whatIsNoQuestionIsRefused(String line, String said) throws IOException {
    Path file = file("x.jsonl", "\n" + line + "\n");
    InputException e = assertThrows(InputException.class, () -> QuestionFile.read(file));
    assertTrue(e.getMessage().contains("line 2"), e.getMessage());
    assertTrue(e.getMessage().contains(said), e.getMessage());
  }

  @Test
  void damagedCsvIsRefused() throws IOException {
    for (String text : List.of("\"a,b\n", "\"a\"b,c\n", "a,b\n")) {
      Path csv = file("bad.csv", text);
      assertThrows(InputException.class, () -> QuestionFile.read(csv), text);
    }
  }
}
