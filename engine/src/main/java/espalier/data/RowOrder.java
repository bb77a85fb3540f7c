package espalier.data;

import java.util.SplittableRandom;

/**
 * Which row of a data set is at which position of a run that passes over the data again and again.
 * It is a pure function of the position, so a run can resume where it stopped.
 */
public sealed interface RowOrder {

  /** The row at a position counted from 0. */
  int at(long position);

  /** The rows as they come, pass after pass. */
  static RowOrder sequential(int rows) {
    return new Sequential(rows);
  }

  /** Each pass over the data has an order of its own, which depends on the seed and the pass. */
  static RowOrder shuffled(int rows, long seed) {
    return new Shuffled(rows, seed);
  }

  /** The rows as they come. */
  record Sequential(int rows) implements RowOrder {
    @Override
    public int at(long position) {
      return (int) (position % rows);
    }
  }

  /** A permutation for each pass. The current one is remembered. */
  final class Shuffled implements RowOrder {
    private final int rows;
    private final long seed;
    private final int[] permutation;
    private long pass = -1;

    private Shuffled(int rows, long seed) {
      this.rows = rows;
      this.seed = seed;
      permutation = new int[rows];
    }

    @Override
    public int at(long position) {
      if (position / rows != pass) {
        pass = position / rows;
        shuffle();
      }
      return permutation[(int) (position % rows)];
    }

    /**
     * The shuffle of Fisher and Yates. The seed is mixed before the pass is added: SplittableRandom
     * steps through its seeds, so neighbouring seeds would draw the same numbers, shifted.
     */
    private void shuffle() {
      SplittableRandom random = new SplittableRandom(new SplittableRandom(seed).nextLong() + pass);
      for (int i = 0; i < rows; i++) {
        int j = random.nextInt(i + 1);
        permutation[i] = permutation[j];
        permutation[j] = i;
      }
    }
  }
}
