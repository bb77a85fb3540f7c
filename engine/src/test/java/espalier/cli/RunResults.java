package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.Safetensors;
import java.io.IOException;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;

/** What two runs must have in common, to be the same run. */
final class RunResults {

  private RunResults() {}

  /** All lines, without what depends on the clock. */
  static List<ObjectNode> metrics(Path run) throws IOException {
    List<ObjectNode> lines = new ArrayList<>();
    for (String line : Files.readAllLines(run.resolve("metrics.jsonl"))) {
      ObjectNode node = (ObjectNode) new ObjectMapper().readTree(line);
      node.remove(List.of("step_ms", "tokens_per_second", "seconds"));
      lines.add(node);
    }
    return lines;
  }

  /** Every metric, and every bit of the checkpoint after a step. */
  static void assertSame(Path expected, Path given, int step) throws IOException {
    assertEquals(metrics(expected), metrics(given));
    SortedMap<String, float[]> one = checkpoint(expected, step);
    SortedMap<String, float[]> other = checkpoint(given, step);
    assertEquals(one.keySet(), other.keySet());
    one.forEach((name, values) -> assertArrayEquals(values, other.get(name), name));
  }

  private static SortedMap<String, float[]> checkpoint(Path run, int step) {
    Path file = run.resolve("checkpoints/step-%06d.safetensors".formatted(step));
    SortedMap<String, float[]> values = new TreeMap<>();
    try (Safetensors tensors = Safetensors.open(file)) {
      tensors
          .tensors()
          .forEach((name, t) -> values.put(name, t.data().toArray(ValueLayout.JAVA_FLOAT)));
    }
    return values;
  }
}
