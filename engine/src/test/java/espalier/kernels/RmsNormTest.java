package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.device.ElementType;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

class RmsNormTest extends KernelTest {

  private record Norm(double[] out, double[] rstd) {}

  private static Norm forward(double[] x, double[] weight, double offset, double eps) {
    return forward(Storage.EXACT, x, weight, offset, eps);
  }

  private static Norm forward(
      Storage storage, double[] x, double[] weight, double offset, double eps) {
    int d = weight.length;
    int rows = x.length / d;
    Norm norm = new Norm(new double[x.length], new double[rows]);
    for (int r = 0; r < rows; r++) {
      double squares = 0;
      for (int c = 0; c < d; c++) squares += x[r * d + c] * x[r * d + c];
      norm.rstd[r] = 1 / Math.sqrt(squares / d + eps);
      for (int c = 0; c < d; c++) {
        double xhat = storage.keep(x[r * d + c] * norm.rstd[r]);
        norm.out[r * d + c] = storage.keep(xhat * (offset + weight[c]));
      }
    }
    return norm;
  }

  /** dX, and the bound that each of its elements must keep. */
  private record Gradient(double[] dX, double[] bound, double[] dWeight, double[] dWeightSizes) {}

  private static Gradient backward(
      double[] x, double[] weight, double offset, double[] rstd, double[] dOut) {
    return backward(Storage.EXACT, x, weight, offset, rstd, dOut);
  }

  private static Gradient backward(
      Storage storage, double[] x, double[] weight, double offset, double[] rstd, double[] dOut) {
    int d = weight.length;
    Gradient result =
        new Gradient(new double[x.length], new double[x.length], new double[d], new double[d]);
    for (int r = 0; r < rstd.length; r++) {
      double mean = 0;
      double meanOfSizes = 0;
      for (int c = 0; c < d; c++) {
        double g = storage.keep(dOut[r * d + c] * (offset + weight[c]));
        double term = storage.keep(g * storage.keep(x[r * d + c] * rstd[r])) / d;
        mean += term;
        meanOfSizes += Math.abs(term);
      }
      for (int c = 0; c < d; c++) {
        int i = r * d + c;
        double xhat = storage.keep(x[i] * rstd[r]);
        double g = storage.keep(dOut[i] * (offset + weight[c]));
        double across = storage.keep(g - storage.keep(xhat * storage.keep(mean)));
        result.dX[i] = storage.keep(rstd[r] * across);
        // About six roundings on each of the two terms; rstd, which comes as a float, counts three
        // times in the second.
        result.bound[i] = 6 * EPS * rstd[r] * (Math.abs(g) + Math.abs(xhat) * meanOfSizes);
        result.dWeight[c] += dOut[i] * xhat;
        result.dWeightSizes[c] += Math.abs(dOut[i] * xhat);
      }
    }
    return result;
  }

  @ParameterizedTest
  @CsvSource({"1, 1, 0", "3, 17, 1", "29, 65, 0", "70, 576, 1", "5, 2304, 1", "0, 8, 0"})
  void forwardAndBackward(int rows, int d, float offset) {
    forwardAndBackward(ElementType.F32, rows, d, offset);
  }

  @ParameterizedTest
  @CsvSource({"29, 65, 0", "70, 576, 1", "5, 2304, 1"})
  void inBfloat16(int rows, int d, float offset) {
    forwardAndBackward(ElementType.BF16, rows, d, offset);
  }

  private void forwardAndBackward(ElementType type, int rows, int d, float offset) {
    for (boolean aligned : new boolean[] {false, true}) {
      buffers.alignTo16(aligned);
      forwardAndBackward(kernels(type), type, rows, d, offset);
    }
  }

  private void forwardAndBackward(
      Kernels kernels, ElementType type, int rows, int d, float offset) {
    float eps = 1e-5f;
    float[] x = random(type, rows * d, 3);
    float[] weight = random(d, 0.2);
    MemorySegment out = buffers.output(type, rows * d);
    MemorySegment rstd = buffers.floats(rows);
    kernels.rmsNormForward(
        buffers.input(type, x), buffers.input(weight), offset, eps, out, d, rstd, rows, d);
    Norm norm = forward(doubles(x), doubles(weight), offset, eps);
    assertNear("rstd", norm.rstd, rstd, relative(norm.rstd, 1));
    assertActivations(
        "out",
        type,
        storage -> forward(storage, doubles(x), doubles(weight), offset, eps).out,
        out,
        i ->
            2
                * EPS
                * Math.abs(x[i] * norm.rstd[i / d])
                * (Math.abs(offset) + Math.abs(weight[i % d])),
        FORWARD);

    float[] dOut = random(type, rows * d, 1);
    // The kernel takes rstd as a float: so does the reference it is held against.
    float[] given = TestBuffers.toFloats(rstd);
    Gradient gradient =
        backward(doubles(x), doubles(weight), offset, doubles(given), doubles(dOut));
    for (boolean accumulate : new boolean[] {false, true}) {
      float[] before = random(type, rows * d, 1);
      float[] weightBefore = random(d);
      MemorySegment dX =
          accumulate ? buffers.changing(type, before) : buffers.output(type, rows * d);
      MemorySegment dWeight = accumulate ? buffers.changing(weightBefore) : NULL;
      kernels.rmsNormBackward(
          buffers.input(type, x),
          buffers.input(weight),
          offset,
          buffers.input(given),
          buffers.input(type, dOut),
          dX,
          accumulate,
          dWeight,
          rows,
          d);
      assertActivations(
          "d_x",
          type,
          storage -> {
            double[] expected =
                backward(
                        storage, doubles(x), doubles(weight), offset, doubles(given), doubles(dOut))
                    .dX;
            for (int i = 0; i < rows * d && accumulate; i++) {
              expected[i] = storage.keep(expected[i] + before[i]);
            }
            return expected;
          },
          dX,
          i -> gradient.bound[i] + EPS * Math.abs(gradient.dX[i] + (accumulate ? before[i] : 0)),
          GRADIENT);
      if (accumulate) {
        double[] expectedWeight = new double[d];
        for (int c = 0; c < d; c++) expectedWeight[c] = gradient.dWeight[c] + weightBefore[c];
        assertNear(
            "d_weight",
            expectedWeight,
            dWeight,
            c -> EPS * (gradient.dWeightSizes[c] + Math.abs(expectedWeight[c])));
      }
    }
  }

  @Test
  void theReferenceIsTheGradient() {
    int d = 7;
    double[] x = doubles(random(3 * d));
    double[] weight = doubles(random(d));
    double[] dOut = doubles(random(3 * d));
    double[] rstd = forward(x, weight, 1, 1e-5).rstd;
    Gradient gradient = backward(x, weight, 1, rstd, dOut);
    assertGradient(v -> dot(forward(v, weight, 1, 1e-5).out, dOut), x, gradient.dX);
    assertGradient(v -> dot(forward(x, v, 1, 1e-5).out, dOut), weight, gradient.dWeight);
  }

  @ParameterizedTest
  @EnumSource
  void ofASumIsTheSumThenTheNorm(ElementType type) {
    Kernels kernels = kernels(type);
    for (int d : new int[] {33, 576}) {
      buffers.alignTo16(d == 576);
      int n = 7 * d;
      float[] x = random(n);
      float[] y = random(n, 2);
      MemorySegment weight = buffers.input(random(d));
      MemorySegment sum = buffers.output(type, n);
      MemorySegment out = buffers.output(type, n);
      MemorySegment rstd = buffers.floats(7);
      kernels.add(buffers.input(type, x), buffers.input(type, y), sum, n);
      kernels.rmsNormForward(sum, weight, 1, 1e-5f, out, d, rstd, 7, d);
      float[] expected = concat(type, rstd, sum, out);

      MemorySegment fusedSum = buffers.output(type, n);
      kernels.addRmsNormForward(
          buffers.input(type, x),
          buffers.input(type, y),
          weight,
          1,
          1e-5f,
          fusedSum,
          out,
          d,
          rstd,
          7,
          d);
      assertSameBits(expected, concat(type, rstd, fusedSum, out), "fused");
      MemorySegment inPlace = buffers.changing(type, x);
      kernels.addRmsNormForward(
          inPlace, buffers.input(type, y), weight, 1, 1e-5f, inPlace, out, d, rstd, 7, d);
      assertSameBits(expected, concat(type, rstd, inPlace, out), "in place");
      int room = 8; // rows are read in packs as before: another number may sum in another order
      MemorySegment apart = buffers.output(type, 7 * (d + room));
      kernels.rmsNormForward(sum, weight, 1, 1e-5f, apart, d + room, rstd, 7, d);
      assertSameBits(
          expected, concat(type, rstd, sum, narrow(type, apart, d, d + room)), "rows apart");
    }
  }

  private static float[] concat(
      ElementType type, MemorySegment floats, MemorySegment... activations) {
    MemorySegment[] parts = new MemorySegment[activations.length + 1];
    parts[0] = floats;
    for (int i = 0; i < activations.length; i++) {
      parts[i + 1] = MemorySegment.ofArray(TestBuffers.toFloats(type, activations[i]));
    }
    return concat(parts);
  }

  /** Widths: no pack, and lanes of 4, 9 and 16 packs of either type, and more than a warp keeps. */
  @ParameterizedTest
  @CsvSource({
    "F32, 33, false",
    "F32, 576, false",
    "F32, 576, true",
    "F32, 1028, true",
    "F32, 1300, true",
    "F32, 2304, true",
    "BF16, 33, false",
    "BF16, 576, true",
    "BF16, 2304, true",
    "BF16, 2568, true",
    "BF16, 4104, true"
  })
  void ofASumWithANormedBranchIsOneAfterAnother(ElementType type, int d, boolean aligned) {
    Kernels kernels = kernels(type);
    buffers.alignTo16(aligned);
    int rows = 11;
    int n = rows * d;
    float eps = 1e-5f;
    MemorySegment branch = buffers.input(type, random(type, n, 3));
    MemorySegment x = buffers.input(type, random(type, n, 2));
    MemorySegment branchWeight = buffers.input(random(d, 0.3));
    MemorySegment weight = buffers.input(random(d, 0.3));
    MemorySegment branchRstd = buffers.floats(rows);
    MemorySegment normed = buffers.output(type, n);
    MemorySegment sum = buffers.output(type, n);
    MemorySegment out = buffers.output(type, n);
    MemorySegment rstd = buffers.floats(rows);
    kernels.rmsNormForward(branch, branchWeight, 1, eps, normed, d, branchRstd, rows, d);
    kernels.add(x, normed, sum, n);
    kernels.rmsNormForward(sum, weight, 1, eps, out, d, rstd, rows, d);

    MemorySegment fusedSum = buffers.output(type, n);
    MemorySegment fusedRstd = buffers.floats(rows);
    kernels.addNormedForward(
        branch, branchWeight, fusedRstd, x, fusedSum, NULL, 1, eps, NULL, 0, NULL, rows, d);
    assertSameBits(
        concat(type, branchRstd, sum), concat(type, fusedRstd, fusedSum), "the sum alone");
    int room = 8; // keeps packs where they are
    MemorySegment wideSum = buffers.output(type, n);
    MemorySegment wide = buffers.output(type, rows * (d + room));
    MemorySegment wideBranchRstd = buffers.floats(rows);
    MemorySegment wideRstd = buffers.floats(rows);
    kernels.addNormedForward(
        branch,
        branchWeight,
        wideBranchRstd,
        x,
        wideSum,
        weight,
        1,
        eps,
        wide,
        d + room,
        wideRstd,
        rows,
        d);
    assertSameBits(
        concat(type, branchRstd, sum, out),
        concat(type, wideBranchRstd, wideSum, narrow(type, wide, d, d + room)),
        "both norms");
    assertSameBits(concat(rstd), concat(wideRstd), "of the second");

    MemorySegment dOut = buffers.input(type, random(type, n, 1));
    for (boolean accumulate : new boolean[] {false, true}) {
      for (boolean trained : new boolean[] {false, true}) {
        float[] before = random(type, n, 1);
        Gradients apart = new Gradients(type, before, accumulate, trained, d);
        kernels.rmsNormBackward(
            sum, weight, 1, rstd, dOut, apart.sum, accumulate, apart.weight, rows, d);
        kernels.rmsNormBackward(
            branch,
            branchWeight,
            1,
            branchRstd,
            apart.sum,
            apart.branch,
            false,
            apart.branchWeight,
            rows,
            d);
        Gradients fused = new Gradients(type, before, accumulate, trained, d);
        kernels.addNormedBackward(
            sum,
            weight,
            rstd,
            dOut,
            fused.sum,
            accumulate,
            fused.weight,
            branch,
            branchWeight,
            branchRstd,
            1,
            fused.branch,
            fused.branchWeight,
            rows,
            d);
        String what = (accumulate ? "accumulated" : "written") + (trained ? ", trained" : "");
        assertSameBits(apart.all(), fused.all(), what);
      }
    }
  }

  /** Where a backward pass through both norms writes. */
  private final class Gradients {
    private final ElementType type;
    private final MemorySegment sum;
    private final MemorySegment branch;
    private final MemorySegment weight;
    private final MemorySegment branchWeight;

    Gradients(ElementType type, float[] before, boolean accumulate, boolean trained, int d) {
      this.type = type;
      sum = accumulate ? buffers.changing(type, before) : buffers.output(type, before.length);
      branch = buffers.output(type, before.length);
      weight = trained ? buffers.changing(new float[d]) : NULL;
      branchWeight = trained ? buffers.changing(new float[d]) : NULL;
    }

    float[] all() {
      return concat(type, MemorySegment.ofArray(concat(weight, branchWeight)), sum, branch);
    }
  }

  @ParameterizedTest
  @EnumSource
  void aNormedBranchMayHaveNoRows(ElementType type) {
    Kernels kernels = kernels(type);
    MemorySegment weight = buffers.input(random(8));
    kernels.addNormedForward(NULL, weight, NULL, NULL, NULL, weight, 0, 1e-5f, NULL, 8, NULL, 0, 8);
    kernels.addNormedBackward(
        NULL, weight, NULL, NULL, NULL, false, NULL, NULL, weight, NULL, 0, NULL, NULL, 0, 8);
  }

  /** Attention sinks: one element a million times the others. */
  @Test
  void keepsItsDigitsBesideAnOutlier() {
    int d = 576;
    float[] x = random(d, 0.1);
    x[100] = 25_000;
    float[] weight = random(d);
    MemorySegment out = buffers.floats(d);
    MemorySegment rstd = buffers.floats(1);
    kernels.rmsNormForward(buffers.input(x), buffers.input(weight), 0, 1e-5f, out, d, rstd, 1, d);
    Norm norm = forward(doubles(x), doubles(weight), 0, 1e-5f);
    assertNear("out", norm.out, out, relative(norm.out, 3));
  }

  @Test
  void zerosStayZeros() {
    MemorySegment out = buffers.floats(9);
    MemorySegment rstd = buffers.floats(1);
    kernels.rmsNormForward(
        buffers.input(new float[9]), buffers.input(random(9)), 0, 1e-6f, out, 9, rstd, 1, 9);
    for (float value : TestBuffers.toFloats(out)) assertEquals(0, Math.abs(value));
    assertEquals(1000, TestBuffers.toFloats(rstd)[0], 1000 * EPS);
  }

  @Test
  void isTheSameForAnyThreads() {
    int rows = 1100;
    int d = 200;
    MemorySegment x = buffers.input(random(rows * d));
    MemorySegment weight = buffers.input(random(d));
    MemorySegment dOut = buffers.input(random(rows * d));
    MemorySegment out = buffers.floats(rows * d);
    MemorySegment rstd = buffers.floats(rows);
    MemorySegment dX = buffers.floats(rows * d);
    assertSameForAnyThreads(
        () -> {
          MemorySegment dWeight = buffers.changing(new float[d]);
          kernels.rmsNormForward(x, weight, 0, 1e-5f, out, d, rstd, rows, d);
          kernels.rmsNormBackward(x, weight, 0, rstd, dOut, dX, false, dWeight, rows, d);
          return concat(out, rstd, dX, dWeight);
        });
  }
}
