package espalier.kernels;

import espalier.device.ElementType;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Activations of MLPs, rotary positions and norms in every type. */
class LayerTypesTest extends TypedKernelTest {

  @ParameterizedTest
  @MethodSource("layouts")
  void activations(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    int n = 4096;
    for (int activation = 0; activation < 4; activation++) {
      int act = activation;
      float[] x = random(type, n, 3);
      float[] dOut = random(type, n, 1);
      MemorySegment out = buffers.output(type, n);
      kernels.activationForward(buffers.input(type, x), act, out, n);
      assertActivations(
          "out " + act,
          type,
          s -> each(n, i -> s.keep(ActivationReference.value(act, x[i]))),
          out,
          FORWARD);
      MemorySegment dX = buffers.changing(type, dOut);
      kernels.activationBackward(buffers.input(type, x), act, dX, dX, n);
      assertActivations(
          "d_x " + act,
          type,
          s -> each(n, i -> s.keep(dOut[i] * ActivationReference.slope(act, x[i]))),
          dX,
          GRADIENT);
    }
  }

  @ParameterizedTest
  @MethodSource("layouts")
  void gated(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    int rows = 9;
    int d = 320;
    for (int activation = 0; activation < 3; activation++) {
      int act = activation;
      float[] gateUp = random(type, 2 * rows * d, 3);
      float[] dOut = random(type, rows * d, 1);
      MemorySegment out = buffers.output(type, rows * d);
      kernels.gatedForward(buffers.input(type, gateUp), act, out, d, rows, d);
      for (int room : new int[] {8, 3}) {
        MemorySegment apart = buffers.output(type, rows * (d + room));
        kernels.gatedForward(buffers.input(type, gateUp), act, apart, d + room, rows, d);
        assertSameBits(
            TestBuffers.toFloats(type, out),
            TestBuffers.toFloats(type, narrow(type, apart, d, d + room)),
            "rows apart");
      }
      assertActivations(
          "out " + act,
          type,
          s ->
              each(
                  rows * d,
                  i -> {
                    int gate = i / d * 2 * d + i % d;
                    double value = s.keep(ActivationReference.value(act, gateUp[gate]));
                    return s.keep(value * gateUp[gate + d]);
                  }),
          out,
          FORWARD);
      MemorySegment dGateUp = buffers.changing(type, gateUp);
      kernels.gatedBackward(dGateUp, act, buffers.input(type, dOut), dGateUp, rows, d);
      assertActivations(
          "d_gate_up " + act,
          type,
          s ->
              each(
                  2 * rows * d,
                  i -> {
                    int gate = i / (2 * d) * 2 * d + i % d;
                    double dy = dOut[i / (2 * d) * d + i % d];
                    return i == gate
                        ? s.keep(
                            s.keep(dy * gateUp[gate + d])
                                * ActivationReference.slope(act, gateUp[gate]))
                        : s.keep(dy * s.keep(ActivationReference.value(act, gateUp[gate])));
                  }),
          dGateUp,
          GRADIENT);
    }
  }

  /** Half of each head turns; the gap between rows and the heads' other half stay. */
  @ParameterizedTest
  @MethodSource("layouts")
  void rope(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    int tokens = 20;
    int seqLen = 10;
    int headDim = 64;
    int half = 16;
    int heads = 3;
    int ld = heads * headDim + 8;
    float[] x = random(type, tokens * ld, 1);
    float[] angles = random(seqLen * half, 1);
    float[] cos = new float[angles.length];
    float[] sin = new float[angles.length];
    for (int i = 0; i < angles.length; i++) {
      cos[i] = (float) Math.cos(angles[i]);
      sin[i] = (float) Math.sin(angles[i]);
    }
    MemorySegment out = buffers.changing(type, x);
    kernels.rope(
        out,
        ld,
        buffers.input(cos),
        buffers.input(sin),
        1,
        tokens,
        seqLen,
        heads,
        headDim,
        2 * half);
    assertActivations(
        "x",
        type,
        s ->
            each(
                tokens * ld,
                i -> {
                  int c = i % ld % headDim;
                  if (i % ld >= heads * headDim || c >= 2 * half) return x[i];
                  int at = i / ld % seqLen * half + c % half;
                  double other = c < half ? -x[i + half] : x[i - half];
                  return s.keep(s.keep((double) x[i] * cos[at]) + s.keep(other * sin[at]));
                }),
        out,
        FORWARD);
  }

  private static final int ROWS = 17;
  private static final int D = 1160; // several packs for each thread of a warp

  /** One row's LayerNorm as a chain of operations. */
  private static double[] layerNorm(Storage s, float[] x, float[] weight, float[] bias) {
    double[] out = new double[x.length];
    for (int r = 0; r < x.length / D; r++) {
      double[] moments = moments(x, r);
      for (int c = 0; c < D; c++) {
        double xhat = s.keep((x[r * D + c] - moments[0]) * moments[1]);
        out[r * D + c] = s.keep(s.keep(xhat * weight[c]) + bias[c]);
      }
    }
    return out;
  }

  /** Mean and 1 / deviation. */
  private static double[] moments(float[] x, int row) {
    double mean = 0;
    for (int c = 0; c < D; c++) mean += (double) x[row * D + c] / D;
    double variance = 0;
    for (int c = 0; c < D; c++) variance += Math.pow(x[row * D + c] - mean, 2) / D;
    return new double[] {mean, 1 / Math.sqrt(variance + 1e-5f)};
  }

  private static double[] layerNormGradient(Storage s, float[] x, float[] weight, float[] dOut) {
    double[] dX = new double[x.length];
    for (int r = 0; r < x.length / D; r++) {
      double[] moments = moments(x, r);
      double level = 0;
      double along = 0;
      for (int c = 0; c < D; c++) {
        double g = s.keep(dOut[r * D + c] * weight[c]);
        level += g / D;
        along += s.keep(g * s.keep((x[r * D + c] - moments[0]) * moments[1])) / D;
      }
      for (int c = 0; c < D; c++) {
        double xhat = s.keep((x[r * D + c] - moments[0]) * moments[1]);
        double g = s.keep(dOut[r * D + c] * weight[c]);
        double rest = s.keep(s.keep(g - s.keep(level)) - s.keep(xhat * s.keep(along)));
        dX[r * D + c] = s.keep(moments[1] * rest);
      }
    }
    return dX;
  }

  @ParameterizedTest
  @MethodSource("layouts")
  void layerNorm(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    int n = ROWS * D;
    float[] x = random(type, n, 3);
    float[] weight = random(D, 0.2);
    float[] bias = random(D, 0.2);
    float[] dOut = random(type, n, 1);
    MemorySegment given = buffers.input(type, x);
    MemorySegment gain = buffers.input(weight);
    MemorySegment mean = buffers.floats(ROWS);
    MemorySegment rstd = buffers.floats(ROWS);
    MemorySegment out = buffers.output(type, n);
    kernels.layerNormForward(given, gain, buffers.input(bias), 1e-5f, out, D, mean, rstd, ROWS, D);
    assertActivations("out", type, s -> layerNorm(s, x, weight, bias), out, FORWARD);
    MemorySegment gradient = buffers.input(type, dOut);
    MemorySegment dX = buffers.output(type, n);
    MemorySegment dWeight = buffers.changing(new float[D]);
    MemorySegment dBias = buffers.changing(new float[D]);
    kernels.layerNormBackward(
        given, gain, mean, rstd, gradient, dX, false, dWeight, dBias, ROWS, D);
    assertActivations("d_x", type, s -> layerNormGradient(s, x, weight, dOut), dX, GRADIENT);
    float[] before = random(type, n, 1);
    MemorySegment added = buffers.changing(type, before);
    kernels.layerNormBackward(given, gain, mean, rstd, gradient, added, true, NULL, NULL, ROWS, D);
    assertActivations(
        "d_x, added to",
        type,
        s -> {
          double[] own = layerNormGradient(s, x, weight, dOut);
          return each(n, i -> s.keep(before[i] + own[i]));
        },
        added,
        GRADIENT);
    double[] weights = new double[D];
    double[] biases = new double[D];
    double[] sizes = new double[D];
    for (int i = 0; i < n; i++) {
      double[] moments = moments(x, i / D);
      double term = dOut[i] * (x[i] - moments[0]) * moments[1];
      weights[i % D] += term;
      biases[i % D] += dOut[i];
      sizes[i % D] += Math.abs(term) + Math.abs(dOut[i]);
    }
    assertNear("d_weight", weights, dWeight, c -> 4 * EPS * sizes[c]);
    assertNear("d_bias", biases, dBias, c -> EPS * sizes[c]);
  }

  @ParameterizedTest
  @MethodSource("layouts")
  void layerNormOfASumIsTheSumThenTheNorm(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    int n = ROWS * D;
    float[] x = random(n);
    MemorySegment y = buffers.input(type, random(n, 2));
    MemorySegment weight = buffers.input(random(D));
    MemorySegment bias = buffers.input(random(D));
    MemorySegment sum = buffers.changing(type, x);
    MemorySegment out = buffers.output(type, n);
    MemorySegment mean = buffers.floats(ROWS);
    MemorySegment rstd = buffers.floats(ROWS);
    kernels.add(sum, y, sum, n);
    kernels.layerNormForward(sum, weight, bias, 1e-5f, out, D, mean, rstd, ROWS, D);
    float[] expectedSum = TestBuffers.toFloats(type, sum);
    float[] expected = TestBuffers.toFloats(type, out);
    float[] statistics = concat(mean, rstd);

    MemorySegment fused = buffers.output(type, n);
    kernels.addLayerNormForward(
        buffers.input(type, x), y, weight, bias, 1e-5f, fused, out, D, mean, rstd, ROWS, D);
    assertSameBits(expectedSum, TestBuffers.toFloats(type, fused), "sum");
    assertSameBits(expected, TestBuffers.toFloats(type, out), "out");
    assertSameBits(statistics, concat(mean, rstd), "statistics");
    MemorySegment inPlace = buffers.changing(type, x);
    kernels.addLayerNormForward(
        inPlace, y, weight, bias, 1e-5f, inPlace, out, D, mean, rstd, ROWS, D);
    assertSameBits(expectedSum, TestBuffers.toFloats(type, inPlace), "sum in place");
    assertSameBits(expected, TestBuffers.toFloats(type, out), "out in place");
    int room = 8; // rows are read in packs as before: another number may sum in another order
    MemorySegment apart = buffers.output(type, ROWS * (D + room));
    kernels.layerNormForward(sum, weight, bias, 1e-5f, apart, D + room, mean, rstd, ROWS, D);
    MemorySegment rows = narrow(type, apart, D, D + room);
    assertSameBits(expected, TestBuffers.toFloats(type, rows), "rows apart");
  }

  private static final int HEADS = 4;
  private static final int KV_HEADS = 2;
  private static final int HEAD_DIM = 80;
  private static final int QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM;

  private static double headRstd(float[] x, int i) {
    double squares = 0;
    int first = i / HEAD_DIM * HEAD_DIM;
    for (int c = 0; c < HEAD_DIM; c++) squares += (double) x[first + c] * x[first + c];
    return 1 / Math.sqrt(squares / HEAD_DIM + 1e-6f);
  }

  @ParameterizedTest
  @MethodSource("layouts")
  void headNorm(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    int tokens = 13;
    int n = tokens * QKV;
    float[] x = random(type, n, 2);
    float[] query = random(HEAD_DIM, 0.3);
    float[] key = random(HEAD_DIM, 0.3);
    float[] dOut = random(type, n, 1);
    MemorySegment given = buffers.input(type, x);
    MemorySegment queries = buffers.input(query);
    MemorySegment keys = buffers.input(key);
    MemorySegment out = buffers.output(type, n);
    MemorySegment rstd = buffers.floats(tokens * (HEADS + KV_HEADS));
    kernels.headNormForward(
        given, queries, keys, 1, 1e-6f, out, rstd, tokens, HEADS, KV_HEADS, HEAD_DIM);
    assertActivations(
        "out",
        type,
        s ->
            each(
                n,
                i -> {
                  int head = i % QKV / HEAD_DIM;
                  if (head >= HEADS + KV_HEADS) return x[i];
                  double gain = 1 + (double) (head < HEADS ? query : key)[i % HEAD_DIM];
                  return s.keep(s.keep(x[i] * headRstd(x, i)) * gain);
                }),
        out,
        FORWARD);
    MemorySegment dX = buffers.changing(type, dOut);
    MemorySegment dQuery = buffers.changing(new float[HEAD_DIM]);
    MemorySegment dKey = buffers.changing(new float[HEAD_DIM]);
    kernels.headNormBackward(
        given, queries, keys, 1, rstd, dX, dX, dQuery, dKey, tokens, HEADS, KV_HEADS, HEAD_DIM);
    assertActivations("d_x", type, s -> headNormGradient(s, x, query, key, dOut), dX, GRADIENT);
    double[] dQueries = new double[HEAD_DIM];
    double[] dKeys = new double[HEAD_DIM];
    double[] sizes = new double[HEAD_DIM];
    for (int i = 0; i < n; i++) {
      int head = i % QKV / HEAD_DIM;
      if (head >= HEADS + KV_HEADS) continue;
      double term = dOut[i] * x[i] * headRstd(x, i);
      (head < HEADS ? dQueries : dKeys)[i % HEAD_DIM] += term;
      sizes[i % HEAD_DIM] += Math.abs(term);
    }
    assertNear("d_query", dQueries, dQuery, c -> 2 * EPS * sizes[c]);
    assertNear("d_key", dKeys, dKey, c -> 2 * EPS * sizes[c]);
  }

  private static double[] headNormGradient(
      Storage s, float[] x, float[] query, float[] key, float[] dOut) {
    double[] dX = new double[x.length];
    for (int first = 0; first < x.length; first += HEAD_DIM) {
      int head = first % QKV / HEAD_DIM;
      float[] weight = head < HEADS ? query : key;
      double rstd = headRstd(x, first);
      double mean = 0;
      for (int c = 0; c < HEAD_DIM; c++) {
        double g = s.keep(dOut[first + c] * (1 + (double) weight[c]));
        mean += s.keep(g * s.keep(x[first + c] * rstd)) / HEAD_DIM;
      }
      for (int c = 0; c < HEAD_DIM; c++) {
        int i = first + c;
        double g = s.keep(dOut[i] * (1 + (double) weight[c]));
        double rest = s.keep(g - s.keep(s.keep(x[i] * rstd) * s.keep(mean)));
        dX[i] = head < HEADS + KV_HEADS ? s.keep(rstd * rest) : dOut[i];
      }
    }
    return dX;
  }
}
