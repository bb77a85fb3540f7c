package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertThrows;

import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class LayerNormTest extends KernelTest {

  private record Norm(double[] out, double[] mean, double[] rstd) {}

  private static Norm forward(double[] x, double[] weight, double[] bias, double eps) {
    int d = weight.length;
    int rows = x.length / d;
    Norm norm = new Norm(new double[x.length], new double[rows], new double[rows]);
    for (int r = 0; r < rows; r++) {
      for (int c = 0; c < d; c++) norm.mean[r] += x[r * d + c] / d;
      double variance = 0;
      for (int c = 0; c < d; c++) variance += Math.pow(x[r * d + c] - norm.mean[r], 2) / d;
      norm.rstd[r] = 1 / Math.sqrt(variance + eps);
      for (int c = 0; c < d; c++) {
        double xhat = (x[r * d + c] - norm.mean[r]) * norm.rstd[r];
        norm.out[r * d + c] = xhat * weight[c] + bias[c];
      }
    }
    return norm;
  }

  /** Gradients, and the sizes of what was added up for each. */
  private record Gradient(
      double[] dX, double[] sizes, double[] dWeight, double[] weightSizes, double[] dBias) {}

  private static Gradient backward(double[] x, double[] weight, Norm norm, double[] dOut) {
    int d = weight.length;
    Gradient g =
        new Gradient(
            new double[x.length],
            new double[x.length],
            new double[d],
            new double[d],
            new double[d]);
    for (int r = 0; r < norm.rstd.length; r++) {
      double level = 0;
      double along = 0;
      double sizes = 0;
      for (int c = 0; c < d; c++) {
        double term = dOut[r * d + c] * weight[c] / d;
        double xhat = (x[r * d + c] - norm.mean[r]) * norm.rstd[r];
        level += term;
        along += term * xhat;
        sizes += Math.abs(term) * (1 + Math.abs(xhat));
      }
      for (int c = 0; c < d; c++) {
        int i = r * d + c;
        double xhat = (x[i] - norm.mean[r]) * norm.rstd[r];
        g.dX[i] = norm.rstd[r] * (dOut[i] * weight[c] - level - xhat * along);
        g.sizes[i] = norm.rstd[r] * (Math.abs(dOut[i] * weight[c]) + sizes * (1 + Math.abs(xhat)));
        g.dWeight[c] += dOut[i] * xhat;
        g.weightSizes[c] += Math.abs(dOut[i]) * (Math.abs(xhat) + 1);
        g.dBias[c] += dOut[i];
      }
    }
    return g;
  }

  @ParameterizedTest
  @CsvSource({"1, 2", "3, 17", "29, 65", "70, 576", "0, 8"})
  void forwardAndBackward(int rows, int d) {
    float eps = 1e-5f;
    float[] x = random(rows * d, 3);
    float[] weight = random(d, 0.2);
    float[] bias = random(d, 0.2);
    MemorySegment out = buffers.floats(rows * d);
    MemorySegment mean = buffers.floats(rows);
    MemorySegment rstd = buffers.floats(rows);
    kernels.layerNormForward(
        buffers.input(x),
        buffers.input(weight),
        buffers.input(bias),
        eps,
        out,
        d,
        mean,
        rstd,
        rows,
        d);
    Norm norm = forward(doubles(x), doubles(weight), doubles(bias), eps);
    assertNear("mean", norm.mean, mean, relative(norm.mean, 1));
    assertNear("rstd", norm.rstd, rstd, relative(norm.rstd, 1));
    assertNear(
        "out",
        norm.out,
        out,
        i -> {
          double scale = norm.rstd[i / d] * Math.abs(weight[i % d]);
          double centred = Math.abs(x[i] - norm.mean[i / d]);
          return EPS
              * (scale * (3 * centred + Math.abs(norm.mean[i / d]))
                  + Math.abs(norm.out[i])
                  + Math.abs(bias[i % d]));
        });

    float[] dOut = random(rows * d);
    Gradient gradient = backward(doubles(x), doubles(weight), norm, doubles(dOut));
    for (boolean accumulate : new boolean[] {false, true}) {
      float[] before = random(rows * d);
      float[] weightBefore = random(d);
      MemorySegment dX = accumulate ? buffers.changing(before) : buffers.floats(rows * d);
      MemorySegment dWeight = accumulate ? buffers.changing(weightBefore) : NULL;
      MemorySegment dBias = accumulate ? buffers.changing(weightBefore) : NULL;
      kernels.layerNormBackward(
          buffers.input(x),
          buffers.input(weight),
          mean,
          rstd,
          buffers.input(dOut),
          dX,
          accumulate,
          dWeight,
          dBias,
          rows,
          d);
      double[] expected = new double[rows * d];
      for (int i = 0; i < rows * d; i++) {
        expected[i] = gradient.dX[i] + (accumulate ? before[i] : 0);
      }
      assertNear("d_x", expected, dX, i -> EPS * (8 * gradient.sizes[i] + Math.abs(expected[i])));
      if (accumulate) {
        double[] weights = new double[d];
        double[] biases = new double[d];
        double[] biasSizes = new double[d];
        for (int i = 0; i < rows * d; i++) biasSizes[i % d] += Math.abs(dOut[i]);
        for (int c = 0; c < d; c++) {
          weights[c] = gradient.dWeight[c] + weightBefore[c];
          biases[c] = gradient.dBias[c] + weightBefore[c];
        }
        assertNear(
            "d_weight",
            weights,
            dWeight,
            c -> EPS * (3 * gradient.weightSizes[c] + Math.abs(weights[c])));
        assertNear("d_bias", biases, dBias, c -> EPS * (biasSizes[c] + Math.abs(biases[c])));
      }
    }
  }

  @Test
  void theReferenceIsTheGradient() {
    int d = 7;
    double[] x = doubles(random(3 * d));
    double[] weight = doubles(random(d));
    double[] bias = doubles(random(d));
    double[] dOut = doubles(random(3 * d));
    Gradient g = backward(x, weight, forward(x, weight, bias, 1e-5), dOut);
    assertGradient(v -> dot(forward(v, weight, bias, 1e-5).out, dOut), x, g.dX);
    assertGradient(v -> dot(forward(x, v, bias, 1e-5).out, dOut), weight, g.dWeight);
    assertGradient(v -> dot(forward(x, weight, v, 1e-5).out, dOut), bias, g.dBias);
  }

  /** Activations far from zero: the variance must not be a difference of large numbers. */
  @Test
  void aLargeMeanCostsNoDigits() {
    int d = 100;
    float[] x = random(d, 1e-3);
    for (int i = 0; i < d; i++) x[i] += 1000;
    float[] weight = random(d);
    float[] bias = random(d);
    MemorySegment rstd = buffers.floats(1);
    kernels.layerNormForward(
        buffers.input(x),
        buffers.input(weight),
        buffers.input(bias),
        1e-12f,
        buffers.floats(d),
        d,
        buffers.floats(1),
        rstd,
        1,
        d);
    Norm norm = forward(doubles(x), doubles(weight), doubles(bias), 1e-12f);
    assertNear("rstd", norm.rstd, rstd, relative(norm.rstd, 2));
  }

  @Test
  void isTheSameForAnyThreads() {
    int rows = 1100;
    int d = 200;
    MemorySegment x = buffers.input(random(rows * d));
    MemorySegment weight = buffers.input(random(d));
    MemorySegment bias = buffers.input(random(d));
    MemorySegment dOut = buffers.input(random(rows * d));
    MemorySegment out = buffers.floats(rows * d);
    MemorySegment mean = buffers.floats(rows);
    MemorySegment rstd = buffers.floats(rows);
    MemorySegment dX = buffers.floats(rows * d);
    assertSameForAnyThreads(
        () -> {
          MemorySegment dWeight = buffers.changing(new float[d]);
          MemorySegment dBias = buffers.changing(new float[d]);
          kernels.layerNormForward(x, weight, bias, 1e-5f, out, d, mean, rstd, rows, d);
          kernels.layerNormBackward(
              x, weight, mean, rstd, dOut, dX, false, dWeight, dBias, rows, d);
          return concat(out, mean, rstd, dX, dWeight, dBias);
        });
  }

  @Test
  void bothParametersGetGradientsOrNone() {
    MemorySegment x = buffers.changing(random(4));
    assertThrows(
        RuntimeException.class,
        () -> kernels.layerNormBackward(x, x, x, x, x, x, false, x, NULL, 1, 4));
  }
}
