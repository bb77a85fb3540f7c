package espalier.recipe;

import espalier.format.InputException;

/** Checks that options lie in their ranges; what does not is refused with the option's name. */
public final class Require {

  private Require() {}

  public static void atLeast(String option, long value, long least) {
    if (value < least) {
      throw new InputException(option + " " + value + ": must be at least " + least);
    }
  }

  public static void positive(String option, double value) {
    if (!(value > 0) || Double.isInfinite(value)) {
      throw new InputException(option + " " + value + ": must be positive");
    }
  }

  public static void notNegative(String option, double value) {
    if (!(value >= 0) || Double.isInfinite(value)) {
      throw new InputException(option + " " + value + ": must not be negative");
    }
  }

  public static void fraction(String option, double value) {
    if (!(value >= 0 && value < 1)) {
      throw new InputException(option + " " + value + ": must be in [0, 1)");
    }
  }
}
