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

  /** A line for each step of training. */
  static List<JsonNode> steps(Path run) {
    return lines(run, "step_ms");
  }

  /**
   * Tokens trained on up to a step, whose number depends on the rows of the data.
   *
   * @param steps lines of {@link #steps}
   */
  static long tokens(List<JsonNode> steps, long step) {
    return steps.stream()
        .filter(line -> line.get("step").longValue() <= step)
        .mapToLong(line -> line.get("tokens").longValue())
        .max()
        .orElse(0);
  }

  /** A line for each evaluation. */
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
