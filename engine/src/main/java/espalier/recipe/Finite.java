package espalier.recipe;

/**
 * Numbers that a result would be made of without a trace of what they are: a comparison with NaN is
 * false, and the choice that it decides looks like any other.
 */
final class Finite {

  private Finite() {}

  /**
   * The value itself.
   *
   * @param what it is, with a verb
   * @throws ArithmeticException if it is NaN or infinite, as it gets by weights that are
   */
  static double require(double value, String what) {
    if (!Double.isFinite(value)) {
      throw new ArithmeticException(
          "%s %s: weights or activations are not finite".formatted(what, value));
    }
    return value;
  }
}
