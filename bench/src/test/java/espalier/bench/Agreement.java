package espalier.bench;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

/** That two implementations compute the same. */
final class Agreement {

  /** Of float32: half a unit in the last place. */
  private static final double EPS = 0x1p-24;

  private Agreement() {}

  /**
   * The difference of two results, as vectors, over their length: rounding errors of elements are
   * independent, so it is about that of one sum of {@code terms} products, sqrt(terms) eps each,
   * over a chain of as many as six such sums and the functions between them.
   */
  static void assertSame(String what, float[] expected, float[] actual, long terms) {
    assertEquals(expected.length, actual.length, what);
    double difference = 0;
    double length = 0;
    for (int i = 0; i < expected.length; i++) {
      double d = (double) actual[i] - expected[i];
      difference += d * d;
      length += (double) expected[i] * expected[i];
    }
    assertTrue(length > 0, what + ": all zero");
    double relative = Math.sqrt(difference / length);
    double bound = 6 * (Math.sqrt(terms) + 4) * EPS;
    assertTrue(relative < bound, what + ": " + relative + " is not below " + bound);
  }
}
