package espalier.recipe;

import java.io.IOException;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.file.Path;
import java.time.Duration;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarStyle;

/**
 * What a job says while it runs, all of it on the error stream: results alone go to the output
 * stream.
 *
 * <p>On a terminal progress is a live bar with the time that is left; elsewhere it is a line now
 * and then.
 */
public final class Console {

  private static final Path STDERR = Path.of("/proc/self/fd/2");

  private static final String CLEAR_LINE = "\r\u001b[K";

  private final PrintStream err;
  private final boolean terminal;

  private Console(PrintStream err, boolean terminal) {
    this.err = err;
    this.terminal = terminal;
  }

  /** Writes to the process's error stream. */
  public static Console standard() {
    return new Console(System.err, isTerminal(STDERR));
  }

  /** Java only tells whether both input and output are terminals. */
  private static boolean isTerminal(Path descriptor) {
    try {
      String file = descriptor.toRealPath().toString();
      return file.startsWith("/dev/pts/") || file.startsWith("/dev/tty");
    } catch (IOException notAFile) { // a pipe, or there is no /proc
      return false;
    }
  }

  /** Writes lines to {@code err}. */
  public static Console to(PrintStream err) {
    return new Console(err, false);
  }

  /** Says nothing: what all ranks would say, the first says for them. */
  static Console silent() {
    return to(new PrintStream(OutputStream.nullOutputStream()));
  }

  public void info(String message) {
    err.println(message);
  }

  public void warn(String message) {
    if (terminal) {
      err.print(CLEAR_LINE); // of a progress bar, which draws itself again
    }
    err.println("WARNING: " + message);
  }

  /** Progress of a task of {@code total} units, to be closed when it is over. */
  public Progress progress(String task, long total) {
    return progress(task, 0, total);
  }

  /**
   * The same of a task that goes on.
   *
   * @param before units done before, of {@code total}; they tell nothing of the time that is left
   */
  Progress progress(String task, long before, long total) {
    return terminal ? new Bar(task, before, total) : new Lines(task, before, total);
  }

  /** Progress of one task. */
  public interface Progress extends AutoCloseable {
    /**
     * @param done units done so far
     * @param detail what the latest of them gave, short
     */
    void step(long done, String detail);

    @Override
    void close();
  }

  private final class Bar implements Progress {
    private final ProgressBar bar;

    Bar(String task, long before, long total) {
      bar =
          new ProgressBarBuilder()
              .setTaskName(task)
              .setInitialMax(total)
              .startsFrom(before, Duration.ZERO)
              .setStyle(ProgressBarStyle.UNICODE_BLOCK)
              .setUpdateIntervalMillis(200)
              .continuousUpdate()
              .build();
    }

    @Override
    public void step(long done, String detail) {
      bar.stepTo(done);
      bar.setExtraMessage(detail);
    }

    @Override
    public void close() {
      bar.close();
    }
  }

  private final class Lines implements Progress {
    private static final int TENTHS = 10;
    private final String task;
    private final long before;
    private final long total;
    private final long start = System.nanoTime();
    private long printed;

    Lines(String task, long before, long total) {
      this.task = task;
      this.before = before;
      this.total = total;
      printed = before * TENTHS / total;
    }

    @Override
    public void step(long done, String detail) {
      long tenth = done * TENTHS / total;
      if (tenth > printed) {
        printed = tenth;
        double seconds = (System.nanoTime() - start) * 1e-9;
        double left = seconds / (done - before) * (total - done);
        // One write: printf makes one of every piece, and another rank's line can come between.
        err.println(
            "%s: %d of %d (%s, %s left)  %s"
                .formatted(task, done, total, time(seconds), time(left), detail));
      }
    }

    private static String time(double seconds) {
      Duration d = Duration.ofMillis(Math.round(seconds * 1e3));
      return d.toMinutes() > 0
          ? "%d min %02d s".formatted(d.toMinutes(), d.toSecondsPart())
          : "%d.%d s".formatted(d.toSeconds(), d.toMillisPart() / 100);
    }

    @Override
    public void close() {}
  }
}
