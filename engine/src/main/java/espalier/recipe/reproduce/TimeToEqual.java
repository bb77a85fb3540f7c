package espalier.recipe.reproduce;

import java.util.List;
import java.util.OptionalDouble;

/**
 * How much sooner one way of training reaches a cross-entropy than another.
 *
 * <p>The one ends at cross-entropy c after t seconds of training. The other's curve, linear between
 * its evaluations, first comes down to c after t' seconds. The ratio is t' / t. Where the other
 * never came down to c, the whole time of its training takes the place of t', and the ratio is a
 * lower bound.
 *
 * @param seconds t' or the other's whole time
 * @param reached whether the other came down to c
 */
record TimeToEqual(double ratio, double seconds, boolean reached) {

  /** A point of a curve. */
  record At(double seconds, double ce) {}

  /**
   * @param end where the one ends
   * @param other the other's curve, ascending in time, not empty
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
