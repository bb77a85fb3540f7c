package espalier.recipe.reproduce;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import espalier.format.InputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** The lines of a run's {@code metrics.jsonl}. */
final class MetricsFile {

  private static final ObjectMapper JSON = new ObjectMapper();

  private MetricsFile() {}

  /** The lines of training steps, one for each step. */
  static List<JsonNode> steps(Path run) {
    return lines(run, "step_ms");
  }

  /**
   * How many tokens the run was trained on up to a step. Steps have different numbers of tokens if
   * the rows of the data do.
   *
   * @param steps the lines from {@link #steps}
   */
  static long tokens(List<JsonNode> steps, long step) {
    return steps.stream()
        .filter(line -> line.get("step").longValue() <= step)
        .mapToLong(line -> line.get("tokens").longValue())
        .max()
        .orElse(0);
  }

  /** The lines of evaluations, one for each evaluation. */
  static List<JsonNode> evaluations(Path run) {
    return lines(run, "seconds");
  }

  private static List<JsonNode> lines(Path run, String with) {
    Path file = run.resolve("metrics.jsonl");
    List<JsonNode> lines = new ArrayList<>();
    try {
      for (String line : Files.readAllLines(file)) {
        JsonNode json = JSON.readTree(line);
        if (json.has(with)) {
          lines.add(json);
        }
      }
    } catch (JsonProcessingException e) {
      throw new InputException(file, "holds a line that is not valid JSON");
    } catch (IOException e) {
      throw new InputException(file, "cannot be read");
    }
    return lines;
  }
}
