package espalier.fuzz;

import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

import com.sun.management.ThreadMXBean;
import espalier.format.InputException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;

/**
 * What every parser owes to every file: it reads it, or says in one line what is wrong with it. No
 * other exception, no hang, no memory beyond what the file's size accounts for.
 */
final class Parsing {

  /** Opens the file and looks at what it holds. */
  interface Parser {
    void open(Path file) throws Exception;
  }

  private static final ThreadMXBean THREADS = (ThreadMXBean) ManagementFactory.getThreadMXBean();

  /** Objects for a token of a file may be this much larger than the token. */
  private static final long BYTES_A_BYTE = 2000;

  private static final long BYTES_ANYWAY = 8 << 20;
  private static final Duration PATIENCE = Duration.ofSeconds(5);

  private Parsing() {}

  static void check(Path file, byte[] content, Parser parser) {
    write(file, content);
    long allowed = BYTES_ANYWAY + BYTES_A_BYTE * content.length;
    Cost cost = run(file, parser);
    // The first call of a method loads and instruments classes, which counts as ours.
    for (int again = 0; again < 3 && !cost.isWithin(allowed); again++) {
      cost = run(file, parser);
    }
    Cost last = cost;
    assertTrue(cost.isWithin(allowed), () -> last + " for a file of " + content.length + " bytes");
  }

  private record Cost(long bytes, Duration time) {
    boolean isWithin(long allowed) {
      return bytes <= allowed && time.compareTo(PATIENCE) < 0;
    }
  }

  private static Cost run(Path file, Parser parser) {
    long start = System.nanoTime();
    long before = THREADS.getCurrentThreadAllocatedBytes();
    try {
      parser.open(file);
    } catch (InputException e) {
      assertTrue(
          e.getMessage() != null && e.getMessage().lines().count() == 1,
          () -> "not one line: " + e.getMessage());
    } catch (Exception | StackOverflowError e) {
      fail("neither read nor refused", e);
    }
    return new Cost(
        THREADS.getCurrentThreadAllocatedBytes() - before,
        Duration.ofNanos(System.nanoTime() - start));
  }

  private static void write(Path file, byte[] content) {
    try {
      Files.write(file, content);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
