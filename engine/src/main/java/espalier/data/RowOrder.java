package espalier.data;

import java.util.SplittableRandom;

/**
 * Which row comes at which position of a run that passes over a data set again and again. A pure
 * function of the position, so a run resumes where it stopped.
 */
public sealed interface RowOrder {

  /** The row at a position counted from 0. */
  int at(long position);

  /** Rows as they come, over and over. */
  static RowOrder sequential(int rows) {
    return new Sequential(rows);
  }

  /** Each pass over the data in an order of its own, drawn from the seed and the pass. */
  static RowOrder shuffled(int rows, long seed) {
    return new Shuffled(rows, seed);
  }

  /** Rows as they come. */
  record Sequential(int rows) implements RowOrder {
    @Override
    public int at(long position) {
      return (int) (position % rows);
    }
  }

  /** A permutation for each pass; the current one is remembered. */
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
     * Fisher and Yates. The seed is mixed before the pass is added: SplittableRandom steps through
     * its seeds, so neighbouring ones would draw the same numbers, shifted.
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
