package espalier.train;

import static java.nio.charset.StandardCharsets.ISO_8859_1;
import static java.nio.charset.StandardCharsets.UTF_8;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.AtomicFiles;
import espalier.format.InputException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.channels.OverlappingFileLockException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.List;

/**
 * {@code metrics.jsonl}: a JSON object a line, a step or an evaluation each. Lines are appended
 * whole; a line that a crash cut off is dropped when the run resumes.
 *
 * <p>The file is locked while it is open, so that a run has one writer: a second would mix its
 * steps, checkpoints and results with the first one's. All goes through one channel, as the lock
 * ends with any that the process closes.
 */
public final class MetricsLog implements AutoCloseable {

  /** A field that only lines of evaluations have: the training time until then. */
  static final String EVALUATION = "seconds";

  private static final ObjectMapper JSON = new ObjectMapper();

  private final Path file;
  private final FileChannel channel;

  /**
   * Opens the log of a run, whose folder is made if need be.
   *
   * @throws InputException if another process has it open
   */
  public MetricsLog(Path file) {
    this.file = file;
    try {
      Files.createDirectories(file.toAbsolutePath().getParent());
      channel =
          FileChannel.open(
              file, StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE);
    } catch (IOException e) {
      throw cannot("be written", e);
    }
    try {
      if (!lock()) {
        throw new InputException(file, "is being written: the run goes on in another process");
      }
      channel.position(channel.size());
    } catch (IOException e) {
      throw cannot("be written", e);
    }
  }

  /** Whether nobody else has the lock, as far as the file system can tell: not all have locks. */
  private boolean lock() {
    try {
      return channel.tryLock() != null;
    } catch (OverlappingFileLockException e) {
      return false;
    } catch (IOException e) {
      return true;
    }
  }

  /** Writes a line at once: whoever watches the run sees each step. */
  public void append(ObjectNode line) {
    try {
      AtomicFiles.writeFully(
          channel, ByteBuffer.wrap((JSON.writeValueAsString(line) + "\n").getBytes(UTF_8)));
    } catch (IOException e) {
      throw cannot("be written", e);
    }
  }

  /** Removes the lines after a step, and anything behind them that is not a whole line. */
  void truncateAfter(long step) {
    try {
      long kept = 0;
      for (String line : lines()) {
        if (!line.endsWith("\n") || stepOf(line) > step) {
          break;
        }
        kept += line.length();
      }
      channel.truncate(kept);
    } catch (IOException e) {
      throw cannot("be cut to step " + step, e);
    }
  }

  /** The step of the last evaluation; -1 if there is none. */
  long lastEvaluation() {
    long last = -1;
    try {
      for (String line : lines()) {
        JsonNode json = JSON.readTree(line);
        if (json.has(EVALUATION)) {
          last = json.path("step").longValue();
        }
      }
      return last;
    } catch (IOException e) {
      throw cannot("be read", e);
    }
  }

  /** All lines with their ends, a character a byte. */
  private List<String> lines() throws IOException {
    ByteBuffer all = ByteBuffer.allocate(Math.toIntExact(channel.size()));
    int read = 0;
    while (all.hasRemaining() && read >= 0) {
      read = channel.read(all, all.position());
    }
    String text = new String(all.array(), ISO_8859_1);
    return text.isEmpty() ? List.of() : List.of(text.split("(?<=\n)"));
  }

  private static long stepOf(String line) {
    try {
      JsonNode step = JSON.readTree(line).path("step");
      return step.isIntegralNumber() ? step.longValue() : Long.MAX_VALUE;
    } catch (JsonProcessingException cutOff) {
      return Long.MAX_VALUE;
    }
  }

  private UncheckedIOException cannot(String what, IOException e) {
    return new UncheckedIOException(file + ": cannot " + what, e);
  }

  @Override
  public void close() {
    try {
      channel.close();
    } catch (IOException e) {
      throw cannot("be written", e);
    }
  }
}
