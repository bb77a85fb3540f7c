package espalier.train;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Turns Ctrl-C (or a TERM signal) into a request: the virtual machine waits with its exit until the
 * running job has finished its step, written a checkpoint and whatever belongs to it, and closed
 * this object, but not forever.
 */
public final class Interruption implements AutoCloseable {

  private static final long PATIENCE_SECONDS = 120;

  private volatile boolean requested;
  private final CountDownLatch finished = new CountDownLatch(1);
  private final Thread hook = new Thread(this::hold, "interruption");

  /** From now on there is something to save. Until then Ctrl-C just ends the process. */
  public void listen() {
    Runtime.getRuntime().addShutdownHook(hook);
  }

  public boolean isRequested() {
    return requested;
  }

  /** Asks for what Ctrl-C asks for. */
  public void request() {
    requested = true;
  }

  private void hold() {
    request();
    try {
      if (!finished.await(PATIENCE_SECONDS, TimeUnit.SECONDS)) {
        System.err.println(
            "espalier: stopped within a step, which took longer than %d s: its checkpoint is missing"
                .formatted(PATIENCE_SECONDS));
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  /** The job is over, its files are written. */
  @Override
  public void close() {
    finished.countDown();
    try {
      Runtime.getRuntime().removeShutdownHook(hook);
    } catch (IllegalStateException alreadyShuttingDown) {
      return; // the latch is open, so the exit goes on
    }
  }
}
