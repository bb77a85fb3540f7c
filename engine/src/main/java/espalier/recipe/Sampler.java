package espalier.recipe;

import java.util.Arrays;
import java.util.SplittableRandom;
import java.util.stream.IntStream;

/**
 * Draws the next token from logits.
 *
 * @param temperature 0 for the likeliest token
 * @param topP draws among the fewest tokens whose probabilities add up to at least this (Holtzman
 *     et al. 2020)
 */
record Sampler(double temperature, double topP, SplittableRandom random) {

  /**
   * @throws ArithmeticException if a logit is not finite
   */
  int next(float[] logits) {
    for (float logit : logits) {
      Finite.require(logit, "a logit of the next token is");
    }
    if (temperature == 0) {
      return likeliest(logits);
    }
    double[] probabilities = softmax(logits);
    int[] order =
        IntStream.range(0, logits.length)
            .boxed()
            .sorted((a, b) -> Double.compare(probabilities[b], probabilities[a]))
            .mapToInt(Integer::intValue)
            .toArray();
    double nucleus = 0;
    int size = 0;
    while (size < order.length && nucleus < topP) {
      nucleus += probabilities[order[size++]];
    }
    double draw = random.nextDouble() * nucleus;
    for (int i = 0; i < size; i++) {
      draw -= probabilities[order[i]];
      if (draw <= 0) {
        return order[i];
      }
    }
    return order[size - 1];
  }

  private double[] softmax(float[] logits) {
    double max = logits[likeliest(logits)];
    double[] p = new double[logits.length];
    for (int i = 0; i < p.length; i++) {
      p[i] = Math.exp((logits[i] - max) / temperature);
    }
    double sum = Arrays.stream(p).sum();
    for (int i = 0; i < p.length; i++) {
      p[i] /= sum;
    }
    return p;
  }

  /** Of equals the first. */
  private static int likeliest(float[] logits) {
    int best = 0;
    for (int i = 1; i < logits.length; i++) {
      if (logits[i] > logits[best]) {
        best = i;
      }
    }
    return best;
  }
}
