package espalier.kernels;

/** Activation functions in double precision, and how far float32 kernels may be off. */
final class ActivationReference {

  static final int SILU = 0;
  static final int GELU_TANH = 1;
  static final int GELU_ERF = 2;
  static final int RELU = 3;

  /** The kernels' exponential stays below 2.4e38: a sigmoid never gets smaller than this. */
  private static final double UNDERFLOW = 5e-39;

  private ActivationReference() {}

  static double value(int activation, double x) {
    return switch (activation) {
      case SILU -> x / (1 + Math.exp(-x));
      case GELU_TANH -> 0.5 * x * onePlusTanh(inner(x));
      case GELU_ERF -> x * normalCdf(x);
      default -> Math.max(x, 0);
    };
  }

  static double slope(int activation, double x) {
    return switch (activation) {
      case SILU -> {
        double s = 1 / (1 + Math.exp(-x));
        yield s * (1 + x * (1 - s));
      }
      case GELU_TANH -> {
        double innerSlope = Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
        yield 0.5 * onePlusTanh(inner(x))
            + 0.5 * x * onePlusTanh(inner(x)) * onePlusTanh(-inner(x)) * innerSlope;
      }
      case GELU_ERF -> normalCdf(x) + x * density(x);
      default -> x > 0 ? 1 : 0;
    };
  }

  /**
   * What the exponential's argument is off by, its result is relatively off by. Where half of erf
   * is subtracted from 1/2 down to 0.08, its roundings weigh five times as much: those of the
   * polynomial, of x / sqrt 2 and of the product. 9 EPS are a relative 1.07e-6.
   */
  static double valueBound(int activation, double x) {
    return switch (activation) {
      case RELU -> 0;
      case GELU_ERF -> 9 * KernelTest.EPS * Math.abs(value(activation, x)) + 1e-37 * Math.abs(x);
      default ->
          KernelTest.EPS
                  * (6 + argumentRoundings(activation, x) * Math.abs(argument(activation, x)))
                  * Math.abs(value(activation, x))
              + UNDERFLOW * Math.abs(x);
    };
  }

  /**
   * The slope is a difference of terms of the size (1 + 3 |argument|) sigmoid; for the exact GELU,
   * of the distribution function and x times the density.
   */
  static double slopeBound(int activation, double x) {
    if (activation == RELU) {
      return 0;
    }
    if (activation == GELU_ERF) {
      return KernelTest.EPS * (10 * normalCdf(x) + 5 * Math.abs(x) * density(x)) + 1e-36;
    }
    double u = argument(activation, x);
    double roundings = KernelTest.EPS * (8 + 2 * Math.abs(u));
    return (1 + 3 * Math.abs(u)) * (roundings / (1 + Math.exp(-u)) + UNDERFLOW);
  }

  /** What the sigmoid inside is taken of. */
  private static double argument(int activation, double x) {
    return activation == SILU ? x : 2 * inner(x);
  }

  /**
   * What the argument may be off by, relatively, in EPS: half of one for each rounding. SiLU's is
   * rounded when it becomes that of a power of two, by a factor that is rounded, too. Of GELU's 2
   * sqrt(2 / pi) x (1 + 0.044715 x^2) the factor in front, two products and the sum are, and the
   * cubic term's share three times more.
   */
  private static double argumentRoundings(int activation, double x) {
    if (activation == SILU) return 1;
    double cubic = 0.044715 * x * x;
    return 2 + 1.5 * cubic / (1 + cubic);
  }

  private static double inner(double x) {
    return Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x);
  }

  /** Where tanh is near -1 the sum itself would have no digits left. */
  private static double onePlusTanh(double u) {
    return 2 / (1 + Math.exp(-2 * u));
  }

  private static double density(double x) {
    return Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
  }

  private static double normalCdf(double x) {
    double t = Math.abs(x) / Math.sqrt(2);
    double below = 0.5 * (t < 2 ? 1 - erf(t) : erfc(t));
    return x < 0 ? below : 1 - below;
  }

  /** The power series. */
  private static double erf(double t) {
    double term = t;
    double sum = t;
    for (int n = 1; n < 60; n++) {
      term *= -t * t / n;
      sum += term / (2 * n + 1);
    }
    return 2 / Math.sqrt(Math.PI) * sum;
  }

  /** The continued fraction t + 1/2 / (t + 1 / (t + 3/2 / ...)). */
  private static double erfc(double t) {
    double fraction = t;
    for (int n = 200; n >= 1; n--) {
      fraction = t + n / 2.0 / fraction;
    }
    return Math.exp(-t * t) / (Math.sqrt(Math.PI) * fraction);
  }
}
