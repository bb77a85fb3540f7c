package espalier.recipe.reproduce;

import java.util.List;
import java.util.OptionalDouble;

/**
 * How much sooner one way of training reaches a cross-entropy than another.
 *
 * <p>The first way ends at cross-entropy c after t seconds of training. The curve of the second,
 * linear between its evaluations, first falls to c after t' seconds. The ratio is t' / t. If the
 * second never falls to c, its whole training time takes the place of t', and the ratio is a lower
 * bound.
 *
 * @param seconds t', or the whole training time of the second
 * @param reached whether the second fell to c
 */
record TimeToEqual(double ratio, double seconds, boolean reached) {

  /** A point of a curve. */
  record At(double seconds, double ce) {}

  /**
   * @param end where the first way ends
   * @param other the curve of the second, ascending in time and not empty
   */
  static TimeToEqual of(At end, List<At> other) {
    OptionalDouble reached = firstAt(other, end.ce);
    double seconds = reached.orElse(other.getLast().seconds);
    return new TimeToEqual(seconds / end.seconds, seconds, reached.isPresent());
  }

  private static OptionalDouble firstAt(List<At> curve, double ce) {
    for (int i = 0; i < curve.size(); i++) {
      At here = curve.get(i);
      if (here.ce <= ce) {
        if (i == 0) {
          return OptionalDouble.of(here.seconds);
        }
        At before = curve.get(i - 1);
        double share = (before.ce - ce) / (before.ce - here.ce);
        return OptionalDouble.of(before.seconds + share * (here.seconds - before.seconds));
      }
    }
    return OptionalDouble.empty();
  }
}
