package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.bindings.NativeException;
import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SaeNormalizeTest extends KernelTest {

  private static final int CONSTANT_NORM = 1;
  private static final int UNIT_VARIANCE = 2;

  private record Row(double[] out, double mean, double spread) {}

  /** In double precision; a row begins at {@code from}. */
  private static Row reference(double[] x, int from, int d, int kind) {
    double mean = 0;
    if (kind == UNIT_VARIANCE) {
      for (int c = 0; c < d; c++) mean += x[from + c] / d;
    }
    double squares = 0;
    for (int c = 0; c < d; c++) squares += (x[from + c] - mean) * (x[from + c] - mean);
    double spread = Math.sqrt(squares / (kind == UNIT_VARIANCE ? d - 1 : d));
    double[] out = new double[d];
    for (int c = 0; c < d; c++) {
      out[c] = (x[from + c] - mean) / (spread + (kind == UNIT_VARIANCE ? 1e-5 : 0));
    }
    return new Row(out, mean, spread);
  }

  /** sum of a * normalised + b * mean + e * spread: what depends on x in any way. */
  private static double loss(double[] x, int d, int kind, double[] a, double[] b, double[] e) {
    double loss = 0;
    for (int t = 0; t < x.length / d; t++) {
      Row row = reference(x, t * d, d, kind);
      for (int c = 0; c < d; c++) loss += a[t * d + c] * row.out[c];
      loss += b[t] * row.mean + e[t] * row.spread;
    }
    return loss;
  }

  private static double[] gradient(
      double[] x, int d, int kind, double[] a, double[] b, double[] e) {
    double[] gradient = new double[x.length];
    boolean centred = kind == UNIT_VARIANCE;
    for (int t = 0; t < x.length / d; t++) {
      Row row = reference(x, t * d, d, kind);
      double s = row.spread + (centred ? 1e-5 : 0);
      double sum = 0;
      double dot = 0;
      for (int c = 0; c < d; c++) {
        sum += a[t * d + c];
        dot += a[t * d + c] * row.out[c] / s;
      }
      double n = centred ? d - 1 : d;
      for (int c = 0; c < d; c++) {
        double u = row.out[c] * s;
        gradient[t * d + c] =
            a[t * d + c] / s
                + (row.spread == 0 ? 0 : u * (e[t] - dot) / (n * row.spread))
                + (centred ? (b[t] - sum / s) / d : 0);
      }
    }
    return gradient;
  }

  private record Normalised(
      MemorySegment x, MemorySegment out, MemorySegment mean, MemorySegment spread) {}

  private Normalised run(float[] x, int kind, int d) {
    int tokens = x.length / d;
    MemorySegment in = buffers.input(x);
    MemorySegment out = buffers.floats(x.length);
    MemorySegment mean = buffers.floats(tokens);
    MemorySegment spread = buffers.floats(tokens);
    kernels.saeNormalize(in, kind, out, mean, spread, tokens, d);
    return new Normalised(in, out, mean, spread);
  }

  @ParameterizedTest
  @CsvSource({"1, 1, 1", "1, 9, 33", "1, 70, 130", "2, 1, 2", "2, 9, 33", "2, 70, 130", "1, 0, 4"})
  void forward(int kind, int tokens, int d) {
    float[] x = random(tokens * d, 50);
    Normalised result = run(x, kind, d);
    double[] out = new double[tokens * d];
    double[] mean = new double[tokens];
    double[] spread = new double[tokens];
    for (int t = 0; t < tokens; t++) {
      Row row = reference(doubles(x), t * d, d, kind);
      System.arraycopy(row.out, 0, out, t * d, d);
      mean[t] = row.mean;
      spread[t] = row.spread;
    }
    assertNear("out", out, result.out, relative(out, 1));
    assertNear("mean", mean, result.mean, relative(mean, 1));
    assertNear("spread", spread, result.spread, relative(spread, 1));
  }

  @ParameterizedTest
  @CsvSource({
    "1, 1, 1, false", "1, 6, 17, true", "1, 50, 130, false",
    "2, 1, 2, false", "2, 6, 17, true", "2, 50, 130, false"
  })
  void backward(int kind, int tokens, int d, boolean accumulate) {
    float[] x = random(tokens * d, 3);
    float[] dOut = random(tokens * d);
    float[] dMean = random(tokens);
    float[] dSpread = random(tokens);
    byte[] keep = new byte[tokens];
    if (tokens > 3) keep[3] = 1;
    float[] dKept = random(tokens * d);
    double[] expected =
        gradient(doubles(x), d, kind, doubles(dOut), doubles(dMean), doubles(dSpread));
    if (tokens < 10) {
      assertGradient(
          v -> loss(v, d, kind, doubles(dOut), doubles(dMean), doubles(dSpread)),
          doubles(x),
          expected);
    }
    float[] before = random(tokens * d);
    double[] bound = new double[tokens * d];
    for (int t = 0; t < tokens; t++) {
      Row row = reference(doubles(x), t * d, d, kind);
      double size = 0; // of all terms, which may cancel; mean and spread are rounded once
      for (int c = 0; c < d; c++) {
        int i = t * d + c;
        size += Math.abs(dOut[i] / row.spread) * (1 + Math.abs(row.out[c]));
        if (keep[t] != 0) expected[i] = dKept[i];
        if (accumulate) expected[i] += before[i];
      }
      size += Math.abs(dSpread[t]) + Math.abs(dMean[t]);
      for (int c = 0; c < d; c++) {
        int i = t * d + c;
        bound[i] = EPS * (4 * size * (1 + Math.abs(row.mean) / row.spread) + Math.abs(expected[i]));
      }
    }
    Normalised normalised = run(x, kind, d);
    MemorySegment dX = accumulate ? buffers.changing(before) : buffers.floats(tokens * d);
    boolean keeps = tokens > 3;
    kernels.saeNormalizeBackward(
        normalised.x,
        normalised.mean,
        normalised.spread,
        kind,
        buffers.input(dOut),
        buffers.input(dMean),
        buffers.input(dSpread),
        keeps ? buffers.input(keep) : NULL,
        keeps ? buffers.input(dKept) : NULL,
        dX,
        accumulate,
        tokens,
        d);
    assertNear("d_x", expected, dX, i -> bound[i]);
  }

  /** Without anything else that depends on the statistics. */
  @Test
  void backwardOfTheNormalisedAlone() {
    for (int kind : new int[] {CONSTANT_NORM, UNIT_VARIANCE}) {
      float[] x = random(5 * 9, 3);
      float[] dOut = random(5 * 9);
      Normalised normalised = run(x, kind, 9);
      MemorySegment zeros = buffers.input(new float[5]);
      MemorySegment with = buffers.floats(45);
      MemorySegment without = buffers.floats(45);
      MemorySegment gradient = buffers.input(dOut);
      kernels.saeNormalizeBackward(
          normalised.x,
          normalised.mean,
          normalised.spread,
          kind,
          gradient,
          zeros,
          zeros,
          NULL,
          NULL,
          with,
          false,
          5,
          9);
      kernels.saeNormalizeBackward(
          normalised.x,
          normalised.mean,
          normalised.spread,
          kind,
          gradient,
          NULL,
          NULL,
          NULL,
          NULL,
          without,
          false,
          5,
          9);
      assertSameBits(TestBuffers.toFloats(with), TestBuffers.toFloats(without), "kind " + kind);
    }
  }

  /** As SAELens: 0 / 0 where a norm is to be constant, 0 where a deviation is added to. */
  @Test
  void rowsWithoutSpread() {
    Normalised constant = run(new float[3], CONSTANT_NORM, 3);
    for (float value : TestBuffers.toFloats(constant.out)) assertTrue(Float.isNaN(value));
    Normalised equal = run(new float[] {7, 7, 7}, UNIT_VARIANCE, 3);
    assertArrayEquals(new float[3], TestBuffers.toFloats(equal.out));
    assertArrayEquals(new float[] {7}, TestBuffers.toFloats(equal.mean));
    assertArrayEquals(new float[] {0}, TestBuffers.toFloats(equal.spread));
    MemorySegment dX = buffers.floats(3);
    kernels.saeNormalizeBackward(
        equal.x,
        equal.mean,
        equal.spread,
        UNIT_VARIANCE,
        buffers.input(1f, 2f, 6f),
        buffers.input(3f),
        buffers.input(1f),
        NULL,
        NULL,
        dX,
        false,
        1,
        3);
    double[] expected = {(1 - 3) / 1e-5 + 1, (2 - 3) / 1e-5 + 1, (6 - 3) / 1e-5 + 1};
    assertNear("d_x", expected, dX, relative(expected, 2));
  }

  @ParameterizedTest
  @CsvSource({
    "1, 1, true, true",
    "9, 33, true, false",
    "9, 33, false, true",
    "70, 130, true, true"
  })
  void restores(int tokens, int d, boolean scaled, boolean skips) {
    float[] y = random(tokens * d);
    float[] mean = random(tokens);
    float[] spread = random(tokens, 9);
    float[] skip = random(tokens * d);
    float[] x = random(tokens * d);
    byte[] keep = new byte[tokens];
    if (tokens > 3) keep[3] = 1;
    double[] expected = new double[tokens * d];
    double[] bound = new double[tokens * d];
    for (int i = 0; i < tokens * d; i++) {
      int t = i / d;
      double product = scaled ? (double) y[i] * spread[t] : y[i];
      double offset = scaled ? mean[t] : 0;
      double beside = skips ? skip[i] : 0;
      expected[i] = keep[t] != 0 ? x[i] : product + offset + beside;
      bound[i] = EPS * (1.5 * Math.abs(product) + Math.abs(offset) + Math.abs(beside));
    }
    MemorySegment out = buffers.floats(tokens * d);
    kernels.saeRestore(
        buffers.input(y),
        scaled ? buffers.input(mean) : NULL,
        scaled ? buffers.input(spread) : NULL,
        skips ? buffers.input(skip) : NULL,
        tokens > 3 ? buffers.input(keep) : NULL,
        tokens > 3 ? buffers.input(x) : NULL,
        out,
        tokens,
        d);
    assertNear("out", expected, out, i -> bound[i]);
  }

  @ParameterizedTest
  @CsvSource({"1, 1, true", "9, 33, false", "70, 130, true"})
  void restoresBackward(int tokens, int d, boolean scaled) {
    float[] dOut = random(tokens * d);
    float[] y = random(tokens * d);
    float[] spread = random(tokens, 9);
    byte[] keep = new byte[tokens];
    if (tokens > 3) keep[3] = 1;
    double[] dY = new double[tokens * d];
    double[] dSkip = new double[tokens * d];
    double[] dMean = new double[tokens];
    double[] dSpread = new double[tokens];
    for (int i = 0; i < tokens * d; i++) {
      int t = i / d;
      if (keep[t] != 0) continue;
      dY[i] = scaled ? (double) dOut[i] * spread[t] : dOut[i];
      dSkip[i] = dOut[i];
      dMean[t] += dOut[i];
      dSpread[t] += (double) dOut[i] * y[i];
    }
    MemorySegment keeping = tokens > 3 ? buffers.input(keep) : NULL;
    MemorySegment dYOut = buffers.floats(tokens * d);
    MemorySegment dSkipOut = buffers.floats(tokens * d);
    MemorySegment dMeanOut = buffers.floats(tokens);
    MemorySegment dSpreadOut = buffers.floats(tokens);
    kernels.saeRestoreBackward(
        buffers.input(dOut),
        scaled ? buffers.input(y) : NULL,
        scaled ? buffers.input(spread) : NULL,
        keeping,
        dYOut,
        dSkipOut,
        scaled ? dMeanOut : NULL,
        scaled ? dSpreadOut : NULL,
        tokens,
        d);
    assertNear("d_y", dY, dYOut, relative(dY, 1));
    assertNear("d_skip", dSkip, dSkipOut, relative(dSkip, 0));
    if (scaled) {
      assertNear("d_mean", dMean, dMeanOut, i -> EPS * Math.abs(dMean[i]) + 1e-12);
      assertNear("d_spread", dSpread, dSpreadOut, i -> EPS * Math.abs(dSpread[i]) + 1e-12);
    }
  }

  @Test
  void isTheSameForAnyThreads() {
    int tokens = 700;
    int d = 130;
    float[] x = random(tokens * d);
    float[] dOut = random(tokens * d);
    for (int kind : new int[] {CONSTANT_NORM, UNIT_VARIANCE}) {
      assertSameForAnyThreads(
          () -> {
            Normalised n = run(x, kind, d);
            MemorySegment gradient = buffers.input(dOut);
            MemorySegment restored = buffers.floats(tokens * d);
            MemorySegment dY = buffers.floats(tokens * d);
            MemorySegment dMean = buffers.floats(tokens);
            MemorySegment dSpread = buffers.floats(tokens);
            MemorySegment dX = buffers.floats(tokens * d);
            kernels.saeRestore(n.out, n.mean, n.spread, NULL, NULL, NULL, restored, tokens, d);
            kernels.saeRestoreBackward(
                gradient, n.out, n.spread, NULL, dY, NULL, dMean, dSpread, tokens, d);
            kernels.saeNormalizeBackward(
                n.x, n.mean, n.spread, kind, dY, dMean, dSpread, NULL, NULL, dX, false, tokens, d);
            return concat(n.out, n.mean, n.spread, restored, dY, dMean, dSpread, dX);
          });
    }
  }

  @Test
  void refusesAContradiction() {
    MemorySegment x = buffers.floats(4);
    assertRefused(() -> kernels.saeNormalize(x, 3, x, x, x, 1, 4), "no normalisation 3");
    assertRefused(() -> kernels.saeNormalize(x, 2, x, x, x, 4, 1), "one value has no variance");
    assertRefused(
        () -> kernels.saeNormalizeBackward(x, x, x, 1, x, x, NULL, NULL, NULL, x, false, 1, 4),
        "d_mean and d_spread");
    assertRefused(
        () -> kernels.saeRestore(x, x, NULL, NULL, NULL, NULL, x, 1, 4), "mean and spread");
    assertRefused(
        () -> kernels.saeRestoreBackward(x, x, NULL, NULL, x, NULL, NULL, NULL, 1, 4), "spread, y");
  }

  private static void assertRefused(org.junit.jupiter.api.function.Executable call, String why) {
    NativeException e = assertThrows(NativeException.class, call);
    assertEquals(-1, e.status());
    assertTrue(e.getMessage().contains(why), e.getMessage());
  }
}
