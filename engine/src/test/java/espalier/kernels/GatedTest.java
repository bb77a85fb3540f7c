package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.lang.foreign.MemorySegment;
import java.util.function.IntToDoubleFunction;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class GatedTest extends KernelTest {

  private static final int SILU = 0;
  private static final int GELU_TANH = 1;

  /** The kernels' exponential stays below 2.4e38: a sigmoid never gets smaller than this. */
  private static final double UNDERFLOW = 5e-39;

  private static double value(int activation, double x) {
    if (activation == SILU) return x / (1 + Math.exp(-x));
    return 0.5 * x * onePlusTanh(inner(x));
  }

  private static double slope(int activation, double x) {
    if (activation == SILU) {
      double s = 1 / (1 + Math.exp(-x));
      return s * (1 + x * (1 - s));
    }
    double innerSlope = Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
    return 0.5 * onePlusTanh(inner(x))
        + 0.5 * x * onePlusTanh(inner(x)) * onePlusTanh(-inner(x)) * innerSlope;
  }

  /** Where tanh is near -1 the sum itself would have no digits left. */
  private static double onePlusTanh(double u) {
    return 2 / (1 + Math.exp(-2 * u));
  }

  private static double inner(double x) {
    return Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x);
  }

  private static double[] forward(int activation, double[] gateUp, int rows, int d) {
    double[] out = new double[rows * d];
    for (int i = 0; i < rows * d; i++) {
      int gate = i / d * 2 * d + i % d;
      out[i] = value(activation, gateUp[gate]) * gateUp[gate + d];
    }
    return out;
  }

  private static double[] backward(
      int activation, double[] gateUp, double[] dOut, int rows, int d) {
    double[] out = new double[2 * rows * d];
    for (int i = 0; i < rows * d; i++) {
      int gate = i / d * 2 * d + i % d;
      out[gate] = dOut[i] * gateUp[gate + d] * slope(activation, gateUp[gate]);
      out[gate + d] = dOut[i] * value(activation, gateUp[gate]);
    }
    return out;
  }

  @ParameterizedTest
  @CsvSource({
    "0, 1, 1",
    "0, 7, 33",
    "0, 65, 100",
    "0, 0, 4",
    "1, 1, 1",
    "1, 7, 33",
    "1, 65, 100",
    "1, 0, 4"
  })
  void forwardAndBackward(int activation, int rows, int d) {
    float[] gateUp = random(2 * rows * d, 3);
    MemorySegment out = buffers.floats(rows * d);
    kernels.gatedForward(buffers.input(gateUp), activation, out, rows, d);
    double[] expected = forward(activation, doubles(gateUp), rows, d);
    // The exponential's argument is rounded, which makes its result relatively off by |argument|
    // eps.
    assertNear(
        "out",
        expected,
        out,
        i -> {
          int gate = i / d * 2 * d + i % d;
          double x = gateUp[gate];
          double roundings = EPS * (6 + Math.abs(argument(activation, x)));
          return roundings * Math.abs(expected[i]) + UNDERFLOW * Math.abs(x * gateUp[gate + d]);
        });

    float[] dOut = random(rows * d);
    double[] gradient = backward(activation, doubles(gateUp), doubles(dOut), rows, d);
    MemorySegment dGateUp = buffers.floats(2 * rows * d);
    kernels.gatedBackward(buffers.input(gateUp), activation, buffers.input(dOut), dGateUp, rows, d);
    // The slope is a difference of terms of the size (1 + 3 |argument|) sigmoid: bounded beside
    // that.
    IntToDoubleFunction bound =
        i -> {
          int c = i % (2 * d);
          int gate = c < d ? i : i - d;
          double x = gateUp[gate];
          double u = argument(activation, x);
          double roundings = EPS * (8 + 2 * Math.abs(u));
          double dy = dOut[i / (2 * d) * d + gate % (2 * d)];
          if (c >= d) return roundings * Math.abs(gradient[i]) + UNDERFLOW * Math.abs(x * dy);
          double g = Math.abs(dy * gateUp[gate + d]) * (1 + 3 * Math.abs(u));
          return g * (roundings / (1 + Math.exp(-u)) + UNDERFLOW);
        };
    assertNear("d_gate_up", gradient, dGateUp, bound);

    MemorySegment inPlace = buffers.changing(gateUp);
    kernels.gatedBackward(inPlace, activation, buffers.input(dOut), inPlace, rows, d);
    assertNear("d_gate_up in place", gradient, inPlace, bound);
  }

  /** What the sigmoid inside is taken of. */
  private static double argument(int activation, double x) {
    return activation == SILU ? x : 2 * inner(x);
  }

  @ParameterizedTest
  @CsvSource({"0", "1"})
  void theReferenceIsTheGradient(int activation) {
    double[] gateUp = doubles(random(2 * 15));
    double[] dOut = doubles(random(15));
    assertGradient(
        v -> dot(forward(activation, v, 3, 5), dOut),
        gateUp,
        backward(activation, gateUp, dOut, 3, 5));
  }

  @Test
  void farGatesAreZeroOrOne() {
    for (int activation : new int[] {SILU, GELU_TANH}) {
      MemorySegment out = buffers.floats(4);
      kernels.gatedForward(
          buffers.input(-1e4f, -200f, 200f, 1e4f, 2, 2, 2, 2), activation, out, 1, 4);
      float[] actual = TestBuffers.toFloats(out);
      assertEquals(0, actual[0], 1e-30);
      assertEquals(0, actual[1], 1e-30);
      assertEquals(400, actual[2]);
      assertEquals(2e4f, actual[3]);
    }
  }
}
