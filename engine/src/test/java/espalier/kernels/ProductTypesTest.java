package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.device.ElementType;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Dense products and the head with its losses in every type. */
class ProductTypesTest extends TypedKernelTest {

  /** Inner products in float64, stored once: a[m, k], b[n, k] by rows. */
  private static double[] product(Storage s, double[] a, double[] b, int m, int n, int k) {
    double[] out = new double[m * n];
    for (int i = 0; i < m; i++) {
      for (int j = 0; j < n; j++) {
        double sum = 0;
        for (int l = 0; l < k; l++) sum += a[i * k + l] * b[j * k + l];
        out[i * n + j] = s.keep(sum);
      }
    }
    return out;
  }

  private static double[] transposed(double[] a, int rows, int cols) {
    return each(a.length, i -> a[i % rows * cols + i / rows]);
  }

  @ParameterizedTest
  @MethodSource("layouts")
  void gemm(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    int m = 48;
    int n = 72;
    int k = 136;
    float[] a = random(type, m * k, 1);
    float[] b = random(type, n * k, 1);
    float[] before = random(type, m * n, 1);
    for (int flags = 0; flags < 4; flags++) {
      boolean transA = (flags & 1) != 0;
      boolean transB = (flags & 2) != 0;
      double[] rowsOfA = transA ? transposed(doubles(a), k, m) : doubles(a);
      double[] rowsOfB = transB ? doubles(b) : transposed(doubles(b), k, n);
      MemorySegment c = buffers.changing(type, before);
      kernels.gemm(
          transA,
          transB,
          m,
          n,
          k,
          0.5f,
          buffers.input(type, a),
          transA ? m : k,
          buffers.input(type, b),
          transB ? k : n,
          1,
          c,
          n);
      assertActivations(
          "c " + flags,
          type,
          s -> {
            double[] sums = product(s, rowsOfA, rowsOfB, m, n, k);
            return each(m * n, i -> s.keep(before[i] + s.keep(0.5 * sums[i])));
          },
          c,
          FORWARD);
      MemorySegment floats = buffers.floats(m * n);
      kernels.gemm(
          transA,
          transB,
          m,
          n,
          k,
          1,
          buffers.input(type, a),
          transA ? m : k,
          buffers.input(type, b),
          transB ? k : n,
          0,
          floats,
          n,
          ElementType.F32);
      double[] exact = product(Storage.EXACT, rowsOfA, rowsOfB, m, n, k);
      double scale = Arrays.stream(exact).map(Math::abs).max().getAsDouble();
      assertNear("float c " + flags, exact, floats, i -> 1e-5 * scale);
    }
  }

  private static final int TOKENS = 23;
  private static final int DIM = 40;
  private static final int VOCAB = 8200; // more than two rounds of a block of 512, in whole packs

  /** The gradient of hidden states, stored where a chain of operations would store tensors. */
  private static double[] hiddenGradient(
      Storage s, float[] hidden, float[] head, float softcap, double[][] p, float scale) {
    double[] dHidden = new double[hidden.length];
    for (int t = 0; t < TOKENS; t++) {
      double[] dz = logitGradient(s, hidden, head, softcap, t, p[t], scale);
      for (int c = 0; c < DIM; c++) {
        double sum = 0;
        for (int v = 0; v < VOCAB; v++) sum += dz[v] * head[v * DIM + c];
        dHidden[t * DIM + c] = s.keep(sum);
      }
    }
    return dHidden;
  }

  private static double[] logitGradient(
      Storage s, float[] hidden, float[] head, float softcap, int t, double[] p, float scale) {
    double[] z = logits(s, hidden, head, softcap, t);
    double[] q = HeadReference.logSoftmax(z);
    return each(
        VOCAB,
        v -> {
          double slope = softcap > 0 ? s.keep(1 - z[v] * z[v] / softcap / softcap) : 1;
          return s.keep(s.keep(s.keep(Math.exp(q[v])) - s.keep(p[v])) * slope * scale);
        });
  }

  private static double[] logits(Storage s, float[] hidden, float[] head, float softcap, int t) {
    return each(
        VOCAB,
        v -> {
          double sum = 0;
          for (int c = 0; c < DIM; c++) sum += (double) hidden[t * DIM + c] * head[v * DIM + c];
          return softcap > 0 ? s.keep(softcap * Math.tanh(s.keep(sum) / softcap)) : s.keep(sum);
        });
  }

  private static double[] softmax(Storage s, float[] hidden, float[] head, float softcap, int t) {
    double[] p = HeadReference.logSoftmax(logits(s, hidden, head, softcap, t));
    return each(VOCAB, v -> Math.exp(p[v]));
  }

  @ParameterizedTest
  @MethodSource("layouts")
  void headKl(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    for (float softcap : new float[] {0, 5}) {
      float[] student = random(type, TOKENS * DIM, 0.5);
      float[] teacher = random(type, TOKENS * DIM, 0.5);
      float[] head = random(type, VOCAB * DIM, 0.3);
      MemorySegment kl = buffers.floats(TOKENS);
      MemorySegment dStudent = buffers.output(type, TOKENS * DIM);
      int chunk = 10;
      kernels.headKl(
          buffers.input(type, student),
          buffers.input(type, teacher),
          buffers.input(type, head),
          softcap,
          NULL,
          kl,
          NULL,
          NULL,
          dStudent,
          0.1f,
          buffers.floats(2 * chunk * (VOCAB + Kernels.LOGITS_ROOM)),
          chunk,
          TOKENS,
          DIM,
          VOCAB);
      double[] exact =
          new HeadReference(doubles(head), DIM, VOCAB, softcap)
              .kl(doubles(student), doubles(teacher));
      assertNear("kl", exact, kl, i -> 1e-5 * (1 + exact[i])); // from float32 logits in every type
      float cap = softcap;
      assertActivations(
          "d_student",
          type,
          s -> {
            double[][] p = new double[TOKENS][];
            for (int t = 0; t < TOKENS; t++) p[t] = softmax(s, teacher, head, cap, t);
            return hiddenGradient(s, student, head, cap, p, 0.1f);
          },
          dStudent,
          GRADIENT);
    }
  }

  /**
   * Equal inputs diverge by exactly 0, saturated logits (300 times the cap) by something finite; a
   * NaN reaches the loss. Of inputs that are not aligned a GPU's library may make the two products
   * in different ways, so that their logits are not equal: there, within what float32 rounds.
   */
  @ParameterizedTest
  @MethodSource("layouts")
  void headKlAtItsLimits(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    float[] head = random(type, VOCAB * DIM, 0.3);
    float[] equal = random(type, 3 * DIM, 0.5);
    float[] saturated = random(type, 3 * DIM, 3000);
    float[] broken = equal.clone();
    broken[DIM] = Float.NaN;
    for (float softcap : new float[] {0, 5}) {
      Limits same = limits(kernels, type, equal, equal, head, softcap);
      for (float value : same.kl) assertEquals(0, value, layout.aligned() ? 0 : 1e-12);
      for (float value : same.gradient) {
        assertEquals(0, Math.abs(value), layout.aligned() ? 0 : 1e-6);
      }
      Limits far = limits(kernels, type, saturated, equal, head, softcap);
      for (float value : far.kl) assertTrue(value > 0 && Float.isFinite(value), "kl " + value);
      for (float value : far.gradient) assertTrue(Float.isFinite(value), "gradient " + value);
      Limits nan = limits(kernels, type, broken, equal, head, softcap);
      assertEquals(same.kl[0], nan.kl[0]);
      assertTrue(Float.isNaN(nan.kl[1]));
      assertEquals(same.kl[2], nan.kl[2]);
    }
  }

  private record Limits(float[] kl, float[] gradient) {}

  private Limits limits(
      Kernels kernels,
      ElementType type,
      float[] student,
      float[] teacher,
      float[] head,
      float softcap) {
    MemorySegment kl = buffers.floats(3);
    MemorySegment gradient = buffers.output(type, 3 * DIM);
    MemorySegment scratch = buffers.floats(2 * 2 * (VOCAB + Kernels.LOGITS_ROOM));
    kernels.headKl(
        buffers.input(type, student),
        buffers.input(type, teacher),
        buffers.input(type, head),
        softcap,
        NULL,
        kl,
        NULL,
        NULL,
        gradient,
        1,
        scratch,
        2,
        3,
        DIM,
        VOCAB);
    return new Limits(TestBuffers.toFloats(kl), TestBuffers.toFloats(type, gradient));
  }

  @ParameterizedTest
  @MethodSource("layouts")
  void headCe(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    float softcap = 7;
    float[] hidden = random(type, TOKENS * DIM, 0.5);
    float[] head = random(type, VOCAB * DIM, 0.3);
    float[] before = random(VOCAB * DIM, 0.01);
    int[] targets = randomInts(TOKENS, VOCAB);
    targets[4] = -1;
    MemorySegment ce = buffers.floats(TOKENS);
    MemorySegment dHidden = buffers.output(type, TOKENS * DIM);
    MemorySegment dHead = buffers.changing(before);
    int chunk = 10;
    kernels.headCe(
        buffers.input(type, hidden),
        buffers.input(type, head),
        softcap,
        buffers.input(targets),
        ce,
        dHidden,
        dHead,
        0.1f,
        buffers.floats(chunk * (VOCAB + Kernels.LOGITS_ROOM)),
        chunk,
        TOKENS,
        DIM,
        VOCAB);
    double[] exact =
        new HeadReference(doubles(head), DIM, VOCAB, softcap)
            .crossEntropy(doubles(hidden), targets);
    assertNear("ce", exact, ce, i -> 1e-5 * exact[i]);
    double[][] onTargets = new double[TOKENS][];
    for (int t = 0; t < TOKENS; t++) {
      int target = targets[t];
      // Without a target, what makes the gradient 0.
      onTargets[t] =
          target < 0
              ? softmax(Storage.EXACT, hidden, head, softcap, t)
              : each(VOCAB, v -> v == target ? 1 : 0);
    }
    assertActivations(
        "d_hidden",
        type,
        s -> withoutRow(4, hiddenGradient(s, hidden, head, softcap, onTargets, 0.1f)),
        dHidden,
        GRADIENT);
    double[] dHeads = doubles(before);
    double[] plain = doubles(before);
    for (int t = 0; t < TOKENS; t++) {
      if (targets[t] < 0) continue;
      double[] dz = logitGradient(Storage.EXACT, hidden, head, softcap, t, onTargets[t], 0.1f);
      double[] rounded =
          logitGradient(Storage.BFLOAT16, hidden, head, softcap, t, onTargets[t], 0.1f);
      for (int i = 0; i < VOCAB * DIM; i++) {
        dHeads[i] += dz[i / DIM] * hidden[t * DIM + i % DIM];
        plain[i] += rounded[i / DIM] * hidden[t * DIM + i % DIM];
      }
    }
    double largest = 0;
    double error = 0;
    for (int i = 0; i < dHeads.length; i++) {
      largest = Math.max(largest, Math.abs(dHeads[i]));
      error = Math.max(error, Math.abs(plain[i] - dHeads[i]));
    }
    double bound = 1e-5 * largest + (type == ElementType.F32 ? 0 : GRADIENT * error);
    assertNear("d_head", dHeads, dHead, i -> bound);
  }

  private static double[] withoutRow(int row, double[] values) {
    Arrays.fill(values, row * DIM, (row + 1) * DIM, 0);
    return values;
  }
}
