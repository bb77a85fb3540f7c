package espalier.train;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class MetricsLogTest {

  private static final String WHOLE =
      "{'step':1}\n{'step':2}\n{'step':2,'seconds':1.5}\n{'step':3}\n".replace('\'', '"');

  @TempDir private Path folder;

  private static ObjectNode step(long step) {
    return JsonNodeFactory.instance.objectNode().put("step", step);
  }

  @ParameterizedTest
  @CsvSource({"-1, 0, -1", "1, 1, -1", "2, 3, 2", "3, 4, 2", "9, 4, 2"})
  void goesOnBehindAStep(long step, int lines, long evaluated) throws IOException {
    Path file = folder.resolve("run/metrics.jsonl");
    for (String cutOff : new String[] {"", "{", "{\"step\":1", "{\"step\":1}", "\0\0\0\0"}) {
      Files.createDirectories(file.getParent());
      Files.writeString(file, WHOLE + cutOff);
      try (MetricsLog log = new MetricsLog(file)) {
        log.truncateAfter(step);
        assertEquals(evaluated, log.lastEvaluation());
        log.append(step(7));
      }
      String kept = WHOLE.lines().limit(lines).map(line -> line + "\n").reduce("", String::concat);
      assertEquals(kept + "{\"step\":7}\n", Files.readString(file));
    }
  }

  @Test
  void hasOneWriter() throws IOException {
    Path file = folder.resolve("metrics.jsonl");
    try (MetricsLog log = new MetricsLog(file)) {
      assertRefused(file, () -> new MetricsLog(file), "another process");
      log.append(step(1));
    }
    try (MetricsLog log = new MetricsLog(file)) {
      log.append(step(2));
    }
    assertEquals("{\"step\":1}\n{\"step\":2}\n", Files.readString(file));
  }
}
