package espalier.report;

import static espalier.Refused.assertRefused;
import static espalier.report.Written.put;
import static org.junit.jupiter.api.Assertions.assertFalse;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RefusedRunsTest {

  private static final String GOOD = "{\"step\":1,\"kl\":0.5,\"step_ms\":2.0}\n";

  @TempDir Path folder;

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "{\"step\":2,\"kl\":0.         | not valid JSON",
        "{\"step\":2} {\"step\":3}     | not valid JSON",
        "{\"step\":2,\"kl\":1,\"kl\":2}| a key appears twice",
        "[2, 0.5]                      | no JSON object",
        "``                            | no JSON object",
        "{\"kl\":0.5}                  | step is missing or is no integer",
        "{\"step\":2.5}                | step is missing or is no integer",
        "{\"step\":2,\"kl\":\"low\"}   | kl is not what it should be: \"low\"",
        "{\"step\":2,\"kl\":null}      | kl is not what it should be: null",
        "{\"step\":2,\"saes\":[1]}     | saes is not what it should be: [1]",
        "{\"step\":2,\"alone\":[1]}    | alone is not what it should be: [1]",
        "{\"step\":2,\"alone\":{\"6\":1}} | alone is not what it should be: {\"6\":1}",
        "{\"step\":2,\"alone\":{\"6\":{\"kl\":\"\"}}} | alone is not what it should be: {\"6\":",
      })
  void aLineOfMetrics(String line, String fault) throws IOException {
    put(folder, "metrics.jsonl", GOOD + line + "\n" + GOOD);
    refused("metrics.jsonl", "line 2: " + fault);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "run.json            | {\"command\":                              | not valid JSON",
        "run.json            | []                                         | no JSON object",
        "results.json        | {\"ce_base\": \"low\"}                     | ce_base is not a number",
        "results.json        | {\"rows\": {}}                             | rows is not an array",
        "results.json        | {\"rows\": [{\"name\":\"a\"}, 3]}          | rows[1] is not an object",
        "results.json        | {\"rows\": [{\"l0\": 3}]}                  | rows[0].name is missing",
        "results.json        | {\"rows\": [{\"name\":\"a\",\"l0\":\"b\"}]}| rows[0].l0 is not a number",
        "results.json        | {\"curves\": [{\"name\": \"a\"}]}          | curves[0].points is not an array",
        "results.json        | {\"curves\": [{\"name\": \"a\", \"points\": [[1, 2], [3]]}]} | curves[0].points[1] is not",
        "results.json        | {\"stages\": [{\"name\": \"a\"}]}          | stages[0].seconds is missing",
        "latent_density.json | {\"saes\": {}}                             | tokens is missing",
        "latent_density.json | {\"tokens\": 0}                            | tokens is 0",
        "latent_density.json | {\"tokens\": 5, \"saes\": {\"a\": 1}}      | saes.a is not an array",
        "latent_density.json | {\"tokens\": 5, \"saes\": {\"a\": [5, 6]}} | saes.a[1] is 6, not of 0 to 5",
        "latent_density.json | {\"tokens\": 5, \"saes\": {\"a\": [-1]}}   | saes.a[0] is -1",
        "latent_density.json | {\"tokens\": 5, \"saes\": {\"a\": [0.5]}}  | saes.a[0] is 0.5",
      })
  void aFile(String name, String content, String fault) throws IOException {
    put(folder, "metrics.jsonl", GOOD);
    put(folder, name, content);
    refused(name, fault);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "{\"ce_base\": 1, \"ce_base\": 2}  | ce_base appears twice",
        "{\"ce_base\": \"low\"}           | ce_base is not what it should be: \"low\"",
        "{\"saes\": [1]}                   | saes is not what it should be: [1]",
        "{\"activation_distance\": 1}      | activation_distance is not what it should be: 1",
        "{\"token_loss_differences\": []}  | token_loss_differences is not what it should be: []",
      })
  void anEvaluation(String content, String fault) throws IOException {
    put(folder, "run.json", "{\"command\": \"evaluate\"}");
    put(folder, "evaluation.json", content);
    refused("evaluation.json", fault);
  }

  private void refused(String file, String fault) {
    assertRefused(folder.resolve(file), () -> Report.write(folder), fault);
    assertFalse(Files.exists(folder.resolve("report.html")));
  }

  @Test
  void metricsThatAreNoText() throws IOException {
    Files.write(folder.resolve("metrics.jsonl"), new byte[] {'{', (byte) 0xff, '}'});
    refused("metrics.jsonl", "cannot be read as text");
  }

  @Test
  void aFaultInAPartNamesThePartsFile() throws IOException {
    put(folder, "run.json", "{}");
    put(folder.resolve("adapter"), "metrics.jsonl", "{");
    refused("adapter/metrics.jsonl", "line 1: not valid JSON");
  }

  @Test
  void aFolderWithoutARun() throws IOException {
    Path missing = folder.resolve("missing");
    assertRefused(missing, () -> Report.write(missing), "no such folder");
    Path page = folder.resolve("page.html");
    assertRefused(missing, () -> Report.write(List.of(missing), page), "no such folder");
    put(folder, "notes.txt", "no run");
    assertRefused(folder, () -> Report.write(List.of(folder), page), "holds no run");
    assertFalse(Files.exists(page));
  }

  @Test
  void aRunGivenTwice() throws IOException {
    Files.write(folder.resolve("metrics.jsonl"), GOOD.getBytes(StandardCharsets.UTF_8));
    Path page = folder.resolve("page.html");
    assertRefused(
        folder, () -> Report.write(List.of(folder, folder.resolve(".")), page), "is given twice");
  }

  @Test
  void aPlaceThatCannotBeWrittenTo() throws IOException {
    put(folder, "metrics.jsonl", GOOD);
    Path nowhere = folder.resolve("missing/page.html");
    assertRefused(
        nowhere, () -> Report.write(List.of(folder), nowhere), "cannot be written: no such folder");
    assertRefused(folder, () -> Report.write(List.of(folder), folder), "is a folder");
  }
}
