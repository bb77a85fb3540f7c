package espalier.distributed;

import espalier.device.Device;
import espalier.device.Replay;
import espalier.device.Transfer;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.stream.Stream;

/**
 * What each rank of a job does in {@link MpiTest} and others: every collective, checked against
 * plain arithmetic.
 */
public final class CollectivesProgram {

  private static final int N = 1003; // not divisible by 2 or 3

  private CollectivesProgram() {}

  public static void main(String[] arguments) {
    try (Ranks started = Ranks.join(Launch.detect(System.getenv()));
        Device device = Device.open()) {
      Ranks ranks = started.on(device);
      run(ranks, device);
      if (device.isHost()) {
        common(ranks);
        threads(ranks, device);
      }
      ranks.gather(new byte[] {1}); // all have come this far
      if (ranks.isFirst()) {
        System.out.println(ranks.size() + " ranks are content");
      }
      ranks.detach();
    }
  }

  /** All that is there on both devices. */
  public static void run(Ranks ranks, Device device) {
    sums(ranks, device);
    largest(ranks, device);
    for (long slice : new long[] {(N + ranks.size() - 1) / ranks.size(), 512, N, 2000}) {
      if (slice * ranks.size() >= N) {
        slices(ranks, device, slice);
      }
    }
    replayed(ranks, device);
    gathers(ranks);
  }

  /** The ranks of a machine have no more threads together than it has processors, or one each. */
  private static void threads(Ranks ranks, Device device) {
    int sum = 0;
    for (byte threads : ranks.gather(new byte[] {(byte) device.kernels().threads()})) {
      sum += threads;
    }
    long processors;
    try (Stream<String> lines = Files.lines(Path.of("/proc/cpuinfo"))) {
      processors = lines.filter(line -> line.startsWith("processor")).count();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    if (sum > Math.max(processors, ranks.size())) {
      throw new AssertionError(sum + " threads on " + processors + " processors");
    }
  }

  private static float value(int rank, long i) {
    return rank * 10_000 + i;
  }

  private static MemorySegment values(Device device, int rank) {
    float[] values = new float[N];
    for (int i = 0; i < N; i++) {
      values[i] = value(rank, i);
    }
    MemorySegment memory = device.allocate(N * Float.BYTES);
    Transfer.write(memory, values);
    return memory;
  }

  private static void sums(Ranks ranks, Device device) {
    MemorySegment values = values(device, ranks.rank());
    ranks.sum(values, N);
    expectSums("sum", ranks, Transfer.floats(values), 1);
  }

  /**
   * @param times that all values were added up
   */
  private static void expectSums(String what, Ranks ranks, float[] sums, int times) {
    for (int i = 0; i < N; i++) {
      float expected = 0; // whole numbers below 2^24: exact in any order
      for (int r = 0; r < ranks.size(); r++) {
        expected += value(r, i);
      }
      expect(what + " " + i, expected * Math.pow(ranks.size(), times - 1), sums[i]);
    }
  }

  private static void largest(Ranks ranks, Device device) {
    MemorySegment values = device.allocate(3 * Integer.BYTES);
    int rank = ranks.rank();
    int last = ranks.size() - 1;
    Transfer.write(values, rank, -rank, rank == last ? 7 : Integer.MIN_VALUE);
    ranks.largest(values, 3);
    int[] found = Transfer.ints(values);
    expect("largest", last, found[0]);
    expect("largest", 0, found[1]);
    expect("largest", 7, found[2]);
  }

  /**
   * Collectives are part of a step that is recorded, where a device records one. NCCL has something
   * to do for an exchange even of one rank with itself, so that ranks leave behind a recording of
   * its messages.
   */
  private static void replayed(Ranks ranks, Device device) {
    MemorySegment values = values(device, ranks.rank());
    long slice = (N + ranks.size() - 1) / ranks.size();
    MemorySegment theirs = device.allocate(ranks.size() * slice * Float.BYTES);
    Replay replay =
        device.replay(
            () -> {
              ranks.sum(values, N);
              ranks.exchange(values, theirs, N, slice);
            });
    for (int times = 1; times <= 3; times++) {
      replay.run();
      float[] sums = Transfer.floats(values);
      expectSums("replayed sum", ranks, sums, times);
      float[] exchanged = Transfer.floats(theirs);
      int first = Math.toIntExact(ranks.rank() * slice);
      for (int i = first; i < Math.min(N, first + slice); i++) {
        for (int r = 0; r < ranks.size(); r++) {
          int at = Math.toIntExact(r * slice + i - first);
          expect("replayed slice of " + r, sums[i], exchanged[at]);
        }
      }
    }
    String how = device.isHost() ? "call by call" : "as one CUDA graph";
    if (!replay.describe().equals(how)) {
      throw new AssertionError("collectives run " + replay.describe());
    }
  }

  private static void slices(Ranks ranks, Device device, long slice) {
    int size = ranks.size();
    MemorySegment mine = values(device, ranks.rank());
    MemorySegment theirs = device.allocate(size * slice * Float.BYTES);
    Transfer.fill(theirs, (byte) -1);
    ranks.exchange(mine, theirs, N, slice);
    float[] exchanged = Transfer.floats(theirs);
    long own = Math.clamp(N - ranks.rank() * slice, 0, slice);
    for (int r = 0; r < size; r++) {
      for (long i = 0; i < own; i++) {
        expect(
            "slice of " + r,
            value(r, ranks.rank() * slice + i),
            exchanged[Math.toIntExact(r * slice + i)]);
      }
    }
    float[] part = new float[N];
    Arrays.fill(part, Float.NaN);
    for (long i = ranks.rank() * slice; i < ranks.rank() * slice + own; i++) {
      part[Math.toIntExact(i)] = -i;
    }
    MemorySegment whole = device.allocate(N * Float.BYTES);
    Transfer.write(whole, part);
    ranks.collect(whole, N, slice);
    float[] collected = Transfer.floats(whole);
    for (int i = 0; i < N; i++) {
      expect("collected", -i, collected[i]);
    }
  }

  /** What one rank writes all have, and the machine has it once. */
  private static void common(Ranks ranks) {
    long n = 16 << 20;
    long before = sharedBytes();
    for (int round = 0; round < 2; round++) {
      NodeMemory memory =
          ranks
              .share(
                  n * Float.BYTES,
                  why -> {
                    throw new AssertionError(why);
                  })
              .orElseThrow();
      expect("alignment", 0, memory.bytes().address() % 64);
      double writers = 0;
      for (double writer : ranks.gather(memory.isWriter() ? 1.0 : 0.0)) {
        writers += writer;
      }
      expect("writers", 1, writers);
      if (memory.isWriter()) {
        for (long i = 0; i < n; i++) {
          memory.bytes().setAtIndex(ValueLayout.JAVA_FLOAT, i, round + i);
        }
      }
      memory.settle();
      for (long i = 0; i < n; i++) {
        expect("common", (float) (round + i), memory.bytes().getAtIndex(ValueLayout.JAVA_FLOAT, i));
      }
    }
    ranks.gather(new byte[] {1}); // all have read it
    double all = 0;
    for (double bytes : ranks.gather((double) (sharedBytes() - before))) {
      all += bytes;
    }
    long given = 2 * n * Float.BYTES;
    if (all < 0.9 * given || all > 1.1 * given) {
      throw new AssertionError("%s bytes are held where %d were shared".formatted(all, given));
    }
    String[] told = {""};
    if (ranks.share(1L << 60, text -> told[0] = text).isPresent()
        || !told[0].contains("/dev/shm")) {
      throw new AssertionError("more than there is: " + told[0]);
    }
  }

  /** This process's share of memory in common: what n processes have counts 1 / n for each. */
  private static long sharedBytes() {
    try {
      String line =
          Files.readAllLines(Path.of("/proc/self/smaps_rollup")).stream()
              .filter(text -> text.startsWith("Pss_Shmem:"))
              .findFirst()
              .orElseThrow();
      return Long.parseLong(line.replaceAll("[^0-9]", "")) * 1024;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
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
