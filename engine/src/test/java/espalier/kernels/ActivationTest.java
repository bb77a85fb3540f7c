package espalier.kernels;

import static espalier.kernels.ActivationReference.slope;
import static espalier.kernels.ActivationReference.slopeBound;
import static espalier.kernels.ActivationReference.value;
import static espalier.kernels.ActivationReference.valueBound;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class ActivationTest extends KernelTest {

  @ParameterizedTest
  @CsvSource({"0, 1", "0, 3001", "1, 3001", "2, 0", "2, 1", "2, 40001", "3, 3001"})
  void forwardAndBackward(int activation, int n) {
    float[] x = random(n, 3);
    MemorySegment out = buffers.floats(n);
    kernels.activationForward(buffers.input(x), activation, out, n);
    double[] expected = new double[n];
    double[] slopes = new double[n];
    for (int i = 0; i < n; i++) {
      expected[i] = value(activation, x[i]);
      slopes[i] = slope(activation, x[i]);
    }
    assertNear("out", expected, out, i -> valueBound(activation, x[i]));

    float[] dOut = random(n);
    double[] gradient = new double[n];
    for (int i = 0; i < n; i++) gradient[i] = dOut[i] * slopes[i];
    MemorySegment dX = buffers.floats(n);
    kernels.activationBackward(buffers.input(x), activation, buffers.input(dOut), dX, n);
    assertNear("d_x", gradient, dX, i -> bound(activation, x[i], dOut[i], gradient[i]));
    MemorySegment inPlace = buffers.changing(dOut);
    kernels.activationBackward(buffers.input(x), activation, inPlace, inPlace, n);
    assertNear(
        "d_x in place", gradient, inPlace, i -> bound(activation, x[i], dOut[i], gradient[i]));
  }

  private static double bound(int activation, float x, float dOut, double gradient) {
    return Math.abs(dOut) * slopeBound(activation, x) + EPS * Math.abs(gradient);
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 1, 2, 3})
  void theReferenceIsTheGradient(int activation) {
    double[] x = doubles(random(31, 2));
    double[] slopes = new double[x.length];
    for (int i = 0; i < x.length; i++) slopes[i] = slope(activation, x[i]);
    assertGradient(
        v -> {
          double sum = 0;
          for (double element : v) sum += value(activation, element);
          return sum;
        },
        x,
        slopes);
  }

  /** The exact GELU over all of its range, where its parts meet and in its tail. */
  @Test
  void geluKeepsItsDigits() {
    int n = 60_001;
    float[] x = new float[n];
    for (int i = 0; i < n; i++) x[i] = -12 + 24f * i / (n - 1);
    MemorySegment out = buffers.floats(n);
    kernels.activationForward(buffers.input(x), ActivationReference.GELU_ERF, out, n);
    double[] expected = new double[n];
    for (int i = 0; i < n; i++) expected[i] = value(ActivationReference.GELU_ERF, x[i]);
    assertNear("out", expected, out, i -> valueBound(ActivationReference.GELU_ERF, x[i]));
  }

  @Test
  void farArgumentsAndNaN() {
    for (int activation = 0; activation < 4; activation++) {
      float[] x = {-1e4f, -200, 0, 200, 1e4f, Float.NaN, -3e38f, 3e38f};
      MemorySegment out = buffers.floats(x.length);
      kernels.activationForward(buffers.input(x), activation, out, x.length);
      float[] actual = TestBuffers.toFloats(out);
      assertEquals(0, actual[0], 1e-30);
      assertEquals(0, actual[1], 1e-30);
      assertEquals(0, actual[2]);
      assertEquals(200, actual[3]);
      assertEquals(1e4f, actual[4]);
      assertTrue(Float.isNaN(actual[5]), "activation " + activation);
      assertEquals(0, actual[6], 2); // a sigmoid ends at 4e-39
      assertEquals(3e38f, actual[7]);
    }
  }

  @Test
  void isTheSameForAnyThreads() {
    int n = 600_000;
    MemorySegment x = buffers.input(random(n));
    MemorySegment dOut = buffers.input(random(n));
    MemorySegment out = buffers.floats(n);
    MemorySegment dX = buffers.floats(n);
    assertSameForAnyThreads(
        () -> {
          kernels.activationForward(x, ActivationReference.GELU_ERF, out, n);
          kernels.activationBackward(x, ActivationReference.GELU_ERF, dOut, dX, n);
          return concat(out, dX);
        });
  }
}
