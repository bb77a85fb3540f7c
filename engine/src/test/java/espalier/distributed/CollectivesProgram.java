package espalier.distributed;

import espalier.device.Device;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;

/** What each rank of {@link MpiTest} does: every collective, checked against plain arithmetic. */
final class CollectivesProgram {

  private static final int N = 1003; // not divisible by 2 or 3

  private CollectivesProgram() {}

  public static void main(String[] arguments) {
    try (Ranks started = Ranks.join(Launch.detect(System.getenv()));
        Device device = Device.open();
        Arena arena = Arena.ofConfined()) {
      Ranks ranks = started.on(device);
      sums(ranks, arena);
      for (long slice : new long[] {(N + ranks.size() - 1) / ranks.size(), 512, N, 2000}) {
        slices(ranks, arena, slice);
      }
      gathers(ranks);
      ranks.gather(new byte[] {1}); // all have come this far
      if (ranks.isFirst()) {
        System.out.println(ranks.size() + " ranks are content");
      }
      ranks.detach();
    }
  }

  private static float value(int rank, long i) {
    return rank * 10_000 + i;
  }

  private static void sums(Ranks ranks, Arena arena) {
    MemorySegment values = arena.allocate(ValueLayout.JAVA_FLOAT, N);
    for (int i = 0; i < N; i++) {
      values.setAtIndex(ValueLayout.JAVA_FLOAT, i, value(ranks.rank(), i));
    }
    ranks.sum(values, N);
    for (int i = 0; i < N; i++) {
      float expected = 0; // whole numbers below 2^24: exact in any order
      for (int r = 0; r < ranks.size(); r++) {
        expected += value(r, i);
      }
      expect("sum " + i, expected, values.getAtIndex(ValueLayout.JAVA_FLOAT, i));
    }
  }

  private static void slices(Ranks ranks, Arena arena, long slice) {
    int size = ranks.size();
    MemorySegment mine = arena.allocate(ValueLayout.JAVA_FLOAT, N);
    MemorySegment theirs = arena.allocate(ValueLayout.JAVA_FLOAT, size * slice);
    for (int i = 0; i < N; i++) {
      mine.setAtIndex(ValueLayout.JAVA_FLOAT, i, value(ranks.rank(), i));
    }
    theirs.fill((byte) -1);
    if (slice * size < N) {
      throw new AssertionError("slices do not cover the array");
    }
    ranks.exchange(mine, theirs, N, slice);
    long own = Math.clamp(N - ranks.rank() * slice, 0, slice);
    for (int r = 0; r < size; r++) {
      for (long i = 0; i < own; i++) {
        expect(
            "slice of " + r,
            value(r, ranks.rank() * slice + i),
            theirs.getAtIndex(ValueLayout.JAVA_FLOAT, r * slice + i));
      }
    }
    MemorySegment whole = arena.allocate(ValueLayout.JAVA_FLOAT, N);
    whole.fill((byte) -1);
    for (long i = ranks.rank() * slice; i < ranks.rank() * slice + own; i++) {
      whole.setAtIndex(ValueLayout.JAVA_FLOAT, i, -i);
    }
    ranks.collect(whole, N, slice);
    for (long i = 0; i < N; i++) {
      expect("collected", -i, whole.getAtIndex(ValueLayout.JAVA_FLOAT, i));
    }
  }

  private static void gathers(Ranks ranks) {
    double[] all = ranks.gather(ranks.rank(), Math.PI);
    for (int r = 0; r < ranks.size(); r++) {
      expect("gathered", r, all[2 * r]);
      expect("gathered", Math.PI, all[2 * r + 1]);
    }
    byte[] word = ranks.rank() == 0 ? "of rank 0".getBytes() : new byte[100];
    if (!Arrays.equals(ranks.broadcast(word), "of rank 0".getBytes())) {
      throw new AssertionError("broadcast");
    }
  }

  private static void expect(String what, double expected, double given) {
    if (expected != given) {
      throw new AssertionError("%s: expected %s, given %s".formatted(what, expected, given));
    }
  }
}
