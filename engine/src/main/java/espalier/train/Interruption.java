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

  private final long patience;
  private volatile boolean requested;
  private final CountDownLatch finished = new CountDownLatch(1);
  private final Thread hook = new Thread(this::hold, "interruption");

  public Interruption() {
    this(PATIENCE_SECONDS);
  }

  /**
   * @param patience seconds that the exit waits
   */
  Interruption(long patience) {
    this.patience = patience;
  }

  /** From now on there is something to save. Until then Ctrl-C just ends the process. */
  public void listen() {
    Runtime.getRuntime().addShutdownHook(hook);
  }

  public boolean isRequested() {
    return requested;
  }

  /** Requests what Ctrl-C requests. */
  public void request() {
    requested = true;
  }

  /** What the virtual machine does before it exits. */
  void hold() {
    request();
    try {
      if (!finished.await(patience, TimeUnit.SECONDS)) {
        System.err.println(
            "espalier: stopped within a step, which took longer than %d s: its checkpoint is missing"
                .formatted(patience));
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
