package espalier.sae;

import espalier.tensor.Tensor;

/**
 * Activations from which an SAE takes its starting point, on the host.
 *
 * @param values {@code [rows, d]}, row-major
 */
public record ActivationSample(float[] values, int d) {

  /** Where the decoder's bias starts. */
  public enum Centre {
    MEAN,
    MEDIAN,
    ZERO
  }

  /** Weiszfeld's iteration ends when the median moves by less than this part of its distance. */
  private static final double PRECISION = 1e-6;

  private static final int MOST_ITERATIONS = 100;

  public ActivationSample {
    if (values.length < d || values.length % d != 0) {
      throw new IllegalArgumentException(values.length + " values make no rows of " + d);
    }
  }

  /**
   * The rows of a batch that an SAE is applied to.
   *
   * @param x {@code [tokens, d]}
   * @param kept whether a token is left out
   */
  public static ActivationSample of(Tensor x, java.util.function.LongPredicate kept) {
    float[] all = x.toArray();
    int d = Math.toIntExact(x.cols());
    int rows = 0;
    for (int t = 0; t < x.rows(); t++) {
      if (!kept.test(t)) {
        System.arraycopy(all, t * d, all, rows++ * d, d);
      }
    }
    return new ActivationSample(java.util.Arrays.copyOf(all, rows * d), d);
  }

  public int rows() {
    return values.length / d;
  }

  public double value(int row, int column) {
    return values[row * d + column];
  }

  double[] centre(Centre kind) {
    return switch (kind) {
      case MEAN -> mean();
      case MEDIAN -> geometricMedian();
      case ZERO -> new double[d];
    };
  }

  double[] mean() {
    double[] mean = new double[d];
    for (int i = 0; i < values.length; i++) {
      mean[i % d] += (double) values[i] / rows();
    }
    return mean;
  }

  /**
   * The point with the least sum of distances to all rows, by Weiszfeld's iteration (1937): the
   * mean weighted by inverse distances, again and again. A row of large norm, as attention sinks
   * have, moves it as little as any other.
   */
  double[] geometricMedian() {
    double[] median = mean();
    for (int iteration = 0; iteration < MOST_ITERATIONS; iteration++) {
      double[] next = new double[d];
      double weights = 0;
      double distances = 0;
      for (int r = 0; r < rows(); r++) {
        double distance = distance(r, median);
        distances += distance / rows();
        double weight = 1 / Math.max(distance, 1e-12);
        weights += weight;
        for (int c = 0; c < d; c++) {
          next[c] += weight * value(r, c);
        }
      }
      double moved = 0;
      for (int c = 0; c < d; c++) {
        next[c] /= weights;
        moved += (next[c] - median[c]) * (next[c] - median[c]);
      }
      median = next;
      if (Math.sqrt(moved) <= PRECISION * distances) {
        break;
      }
    }
    return median;
  }

  private double distance(int row, double[] from) {
    double squares = 0;
    for (int c = 0; c < d; c++) {
      double difference = value(row, c) - from[c];
      squares += difference * difference;
    }
    return Math.sqrt(squares);
  }

  /** Root mean square of all elements around their column's mean. */
  double deviation() {
    return Math.sqrt(variance());
  }

  /** Mean square of all elements around their column's mean. */
  public double variance() {
    double[] mean = mean();
    double squares = 0;
    for (int i = 0; i < values.length; i++) {
      double difference = values[i] - mean[i % d];
      squares += difference * difference;
    }
    return squares / values.length;
  }
}
