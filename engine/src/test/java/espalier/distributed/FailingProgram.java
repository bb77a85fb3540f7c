package espalier.distributed;

import java.util.concurrent.locks.LockSupport;

/** A job of which one rank, {@code arguments[1]}, throws or hangs in its fifth piece of work. */
public final class FailingProgram {

  private FailingProgram() {}

  public static void main(String[] arguments) {
    Ranks ranks = Ranks.join(Launch.detect(System.getenv()));
    try {
      ranks.checkpoint("the checkpoint");
      for (int i = 0; ; i++) {
        boolean now = i == 4 && ranks.rank() == Integer.parseInt(arguments[1]);
        ranks.work(now ? () -> misbehave(arguments[0]) : () -> {});
        ranks.gather(i);
      }
    } catch (IllegalStateException e) {
      ranks.fail(e.getMessage(), 7);
    }
  }

  private static void misbehave(String how) {
    if (how.equals("throw")) {
      throw new IllegalStateException("its own fault");
    }
    while (true) {
      LockSupport.park();
    }
  }
}
