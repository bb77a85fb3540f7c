package espalier.distributed;

import java.nio.DoubleBuffer;
import java.util.Arrays;
import java.util.List;
import java.util.function.BooleanSupplier;
import java.util.function.IntConsumer;

/**
 * Measurements over many batches, divided among the ranks. N ranks compute N batches at a time,
 * rank r the r-th of them, and every rank adds the numbers of all batches in their order. So the
 * sums are those of one rank, bit for bit.
 */
public final class SharedBatches {

  /** Counts that are sent to other ranks at a time. */
  private static final int CHUNK = 1 << 13;

  private SharedBatches() {}

  /** What is measured of every batch. */
  public interface Measure {

    /** How many numbers a batch has, the same for all. */
    int numbers();

    /** Puts the numbers of the batch that this rank has just computed. */
    void measure(DoubleBuffer batch);

    /** Takes the numbers of the next batch, whoever computed it, and adds them. */
    void add(DoubleBuffer batch);

    /**
     * Counts of this rank's own batches beside the numbers: whole numbers below 2^53, whose sum is
     * the same in any order.
     */
    default long[] counts() {
      return new long[0];
    }

    /** Counts of all ranks together, in the place of this rank's. */
    default void counted(long[] all) {}

    /** Adds the one batch that has just been computed, without other ranks. */
    default void addBatch() {
      DoubleBuffer batch = DoubleBuffer.allocate(numbers());
      measure(batch);
      add(batch.flip());
      counted(counts());
    }
  }

  /**
   * @param compute this rank's part: called with the number of each of its batches, which is then
   *     measured
   * @param join called instead where the last batches are fewer than the ranks and none is left for
   *     this one: its part in the others' work
   * @param stop asked after each batch: whether this rank wants no more of them
   * @return whether all were measured; not if a rank wanted to stop, which all then do
   */
  public static boolean run(
      Ranks ranks,
      int batches,
      List<? extends Measure> measures,
      IntConsumer compute,
      Runnable join,
      BooleanSupplier stop) {
    int numbers = measures.stream().mapToInt(Measure::numbers).sum();
    for (int first = 0; first < batches; first += ranks.size()) {
      DoubleBuffer own = DoubleBuffer.allocate(numbers + 1); // and whether to stop
      int batch = first + ranks.rank();
      if (batch < batches) {
        compute.accept(batch);
        measures.forEach(measure -> measure.measure(own));
      } else {
        join.run();
      }
      own.put(numbers, stop.getAsBoolean() ? 1 : 0);
      DoubleBuffer all = DoubleBuffer.wrap(ranks.gather(own.array()));
      boolean stopped = false;
      for (int r = 0; r < ranks.size(); r++) {
        if (first + r < batches) {
          all.position(r * own.capacity());
          measures.forEach(measure -> measure.add(all));
        }
        stopped |= all.get(r * own.capacity() + numbers) != 0;
      }
      if (stopped) {
        return false;
      }
    }
    measures.forEach(measure -> measure.counted(sum(ranks, measure.counts())));
    return true;
  }

  private static long[] sum(Ranks ranks, long[] own) {
    long[] sums = new long[own.length];
    for (int at = 0; at < own.length; at += CHUNK) {
      long[] chunk = Arrays.copyOfRange(own, at, Math.min(own.length, at + CHUNK));
      double[] all = ranks.gather(Arrays.stream(chunk).asDoubleStream().toArray());
      for (int i = 0; i < all.length; i++) {
        sums[at + i % chunk.length] += (long) all[i];
      }
    }
    return sums;
  }
}
