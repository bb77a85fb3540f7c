package espalier.train;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Turns Ctrl-C (or a TERM signal) into a request: the virtual machine waits with its exit until the
 * running job has finished its step, written a checkpoint and closed this object, but not forever.
 */
public final class Interruption implements AutoCloseable {

  private static final long PATIENCE_SECONDS = 120;

  private volatile boolean requested;
  private final CountDownLatch finished = new CountDownLatch(1);
  private final Thread hook = new Thread(this::request, "interruption");

  public Interruption() {
    Runtime.getRuntime().addShutdownHook(hook);
  }

  public boolean isRequested() {
    return requested;
  }

  private void request() {
    requested = true;
    try {
      finished.await(PATIENCE_SECONDS, TimeUnit.SECONDS);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  /** The job is over, its files are written. */
  @Override
  public void close() {
    finished.countDown();
    if (!requested) {
      try {
        Runtime.getRuntime().removeShutdownHook(hook);
      } catch (IllegalStateException alreadyShuttingDown) {
        // The request came just now; the latch is open, so the exit goes on.
        return;
      }
    }
  }
}
