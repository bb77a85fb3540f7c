package espalier.distributed;

import java.util.concurrent.locks.LockSupport;

/**
 * A job of which one rank, {@code arguments[1]}, throws or hangs in its fifth piece of work; or all
 * do, each {@code arguments[2]} milliseconds after the one before.
 */
public final class FailingProgram {

  /** Said by a rank that begins to hang. */
  public static final String HANGS = "hangs from now on";

  private FailingProgram() {}

  public static void main(String[] arguments) {
    Ranks ranks = Ranks.join(Launch.detect(System.getenv()));
    try {
      ranks.checkpoint("the checkpoint");
      for (int i = 0; ; i++) {
        boolean all = arguments[1].equals("all");
        boolean chosen = all || arguments[1].equals(String.valueOf(ranks.rank()));
        if (i == 4 && all) {
          LockSupport.parkNanos(ranks.rank() * Long.parseLong(arguments[2]) * 1_000_000);
        }
        double piece = i;
        ranks.work(
            () -> {
              if (piece == 4 && chosen) {
                misbehave(arguments[0]);
              }
              ranks.gather(piece); // work may wait for the others
            });
      }
    } catch (IllegalStateException e) {
      ranks.fail(e.getMessage(), 7);
    }
  }

  private static void misbehave(String how) {
    if (how.equals("throw")) {
      throw new IllegalStateException("its own fault");
    }
    System.err.println(HANGS);
    while (true) {
      LockSupport.park();
    }
  }
}
