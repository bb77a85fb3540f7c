package espalier.kernels;

import java.util.Arrays;
import java.util.Random;

/**
 * Lists of latents as encoding leaves them: token t has the entries {@code [t * capacity, t *
 * capacity + count[t])}.
 */
record Lists(int tokens, int m, int capacity, int[] index, float[] value, int[] count) {

  /** Random lists, the first empty, the second full; what lies behind a list must not be read. */
  static Lists random(Random random, int tokens, int m, int capacity) {
    int[] index = new int[tokens * capacity];
    float[] value = new float[tokens * capacity];
    int[] count = new int[tokens];
    Arrays.fill(index, Integer.MAX_VALUE);
    Arrays.fill(value, Float.NaN);
    for (int t = 0; t < tokens; t++) {
      count[t] = t == 0 ? 0 : t == 1 ? capacity : random.nextInt(capacity + 1);
      int[] chosen = random.ints(0, m).distinct().limit(count[t]).sorted().toArray();
      for (int j = 0; j < count[t]; j++) {
        index[t * capacity + j] = chosen[j];
        value[t * capacity + j] = (float) (random.nextGaussian() + 0.5);
      }
    }
    return new Lists(tokens, m, capacity, index, value, count);
  }

  /** Other values in the same places. */
  float[] values(Random random) {
    float[] out = new float[value.length];
    for (int i = 0; i < out.length; i++) {
      out[i] = Float.isNaN(value[i]) ? Float.NaN : (float) (random.nextGaussian() + 0.5);
    }
    return out;
  }

  /** Called once for each entry, in order. */
  interface Visitor {
    void visit(int token, int entry, int latent);
  }

  void forEach(Visitor visitor) {
    for (int t = 0; t < tokens; t++) {
      for (int entry = t * capacity; entry < t * capacity + count[t]; entry++) {
        visitor.visit(t, entry, index[entry]);
      }
    }
  }
}
