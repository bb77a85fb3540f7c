package espalier.recipe;

import espalier.format.InputException;

/** Ranges of options; whatever is outside is refused by the option's name. */
final class Require {

  private Require() {}

  static void atLeast(String option, long value, long least) {
    if (value < least) {
      throw new InputException(option + " " + value + ": must be at least " + least);
    }
  }

  static void positive(String option, double value) {
    if (!(value > 0) || Double.isInfinite(value)) {
      throw new InputException(option + " " + value + ": must be positive");
    }
  }

  static void notNegative(String option, double value) {
    if (!(value >= 0) || Double.isInfinite(value)) {
      throw new InputException(option + " " + value + ": must not be negative");
    }
  }

  static void fraction(String option, double value) {
    if (!(value >= 0 && value < 1)) {
      throw new InputException(option + " " + value + ": must be in [0, 1)");
    }
  }
}
