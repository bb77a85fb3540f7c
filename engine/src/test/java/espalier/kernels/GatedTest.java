package espalier.kernels;

import static espalier.kernels.ActivationReference.slope;
import static espalier.kernels.ActivationReference.slopeBound;
import static espalier.kernels.ActivationReference.value;
import static espalier.kernels.ActivationReference.valueBound;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.lang.foreign.MemorySegment;
import java.util.function.IntToDoubleFunction;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class GatedTest extends KernelTest {

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
    "1, 0, 4",
    "2, 7, 33",
    "2, 65, 100"
  })
  void forwardAndBackward(int activation, int rows, int d) {
    float[] gateUp = random(2 * rows * d, 3);
    MemorySegment out = buffers.floats(rows * d);
    kernels.gatedForward(buffers.input(gateUp), activation, out, d, rows, d);
    double[] expected = forward(activation, doubles(gateUp), rows, d);
    assertNear(
        "out",
        expected,
        out,
        i -> {
          int gate = i / d * 2 * d + i % d;
          return Math.abs(gateUp[gate + d]) * valueBound(activation, gateUp[gate])
              + EPS * Math.abs(expected[i]);
        });

    float[] dOut = random(rows * d);
    double[] gradient = backward(activation, doubles(gateUp), doubles(dOut), rows, d);
    MemorySegment dGateUp = buffers.floats(2 * rows * d);
    kernels.gatedBackward(buffers.input(gateUp), activation, buffers.input(dOut), dGateUp, rows, d);
    IntToDoubleFunction bound =
        i -> {
          int c = i % (2 * d);
          int gate = c < d ? i : i - d;
          double dy = Math.abs(dOut[i / (2 * d) * d + gate % (2 * d)]);
          double one = EPS * Math.abs(gradient[i]);
          return c >= d
              ? dy * valueBound(activation, gateUp[gate]) + one
              : dy * Math.abs(gateUp[gate + d]) * slopeBound(activation, gateUp[gate]) + 2 * one;
        };
    assertNear("d_gate_up", gradient, dGateUp, bound);

    MemorySegment inPlace = buffers.changing(gateUp);
    kernels.gatedBackward(inPlace, activation, buffers.input(dOut), inPlace, rows, d);
    assertNear("d_gate_up in place", gradient, inPlace, bound);
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 1, 2})
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
    for (int activation = 0; activation < 3; activation++) {
      MemorySegment out = buffers.floats(4);
      kernels.gatedForward(
          buffers.input(-1e4f, -200f, 200f, 1e4f, 2, 2, 2, 2), activation, out, 4, 1, 4);
      float[] actual = TestBuffers.toFloats(out);
      assertEquals(0, actual[0], 1e-30);
      assertEquals(0, actual[1], 1e-30);
      assertEquals(400, actual[2]);
      assertEquals(2e4f, actual[3]);
    }
  }
}
