package espalier.train;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.List;

/**
 * {@code metrics.jsonl}: a JSON object a line, a step or an evaluation each. Lines are appended
 * whole; a line that a crash cut off is dropped when the run resumes.
 */
public final class MetricsLog implements AutoCloseable {

  /** A field that only lines of evaluations have: the training time until then. */
  static final String EVALUATION = "seconds";

  private static final ObjectMapper JSON = new ObjectMapper();

  private final Path file;
  private BufferedWriter writer;

  public MetricsLog(Path file) {
    this.file = file;
    open();
  }

  public void append(ObjectNode line) {
    try {
      writer.write(JSON.writeValueAsString(line));
      writer.write('\n');
      writer.flush(); // whoever watches the run sees each step
    } catch (IOException e) {
      throw new UncheckedIOException(file + ": cannot be written", e);
    }
  }

  public void flush() {
    try {
      writer.flush();
    } catch (IOException e) {
      throw new UncheckedIOException(file + ": cannot be written", e);
    }
  }

  /** Removes the lines after a step, and anything that is not a whole line. */
  void truncateAfter(long step) {
    close();
    List<String> kept = new ArrayList<>();
    try {
      for (String line : Files.readAllLines(file)) {
        if (stepOf(line) <= step) {
          kept.add(line);
        }
      }
      Path fresh = file.resolveSibling(file.getFileName() + ".tmp");
      Files.write(fresh, kept);
      Files.move(fresh, file, java.nio.file.StandardCopyOption.ATOMIC_MOVE);
    } catch (IOException e) {
      throw new UncheckedIOException(file + ": cannot be cut to step " + step, e);
    }
    open();
  }

  /** The step of the last evaluation; -1 if there is none. */
  long lastEvaluation() {
    long last = -1;
    try {
      for (String line : Files.readAllLines(file)) {
        JsonNode json = JSON.readTree(line);
        if (json.has(EVALUATION)) {
          last = json.path("step").longValue();
        }
      }
      return last;
    } catch (IOException e) {
      throw new UncheckedIOException(file + ": cannot be read", e);
    }
  }

  private static long stepOf(String line) {
    try {
      JsonNode step = JSON.readTree(line).path("step");
      return step.isIntegralNumber() ? step.longValue() : Long.MAX_VALUE;
    } catch (JsonProcessingException cutOff) {
      return Long.MAX_VALUE;
    }
  }

  private void open() {
    try {
      writer =
          Files.newBufferedWriter(
              file, StandardCharsets.UTF_8, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    } catch (IOException e) {
      throw new UncheckedIOException(file + ": cannot be written", e);
    }
  }

  @Override
  public void close() {
    try {
      writer.close();
    } catch (IOException e) {
      throw new UncheckedIOException(file + ": cannot be written", e);
    }
  }
}
