package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import espalier.bindings.NativeException;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class SaeTrainTest extends KernelTest {

  private final Random random = new Random(11);

  private record ByLatent(MemorySegment offsets, MemorySegment entries) {}

  private ByLatent byLatent(Lists lists) {
    ByLatent by =
        new ByLatent(buffers.ints(lists.m() + 1), buffers.ints(lists.tokens() * lists.capacity()));
    kernels.saeByLatent(
        buffers.input(lists.index()),
        buffers.input(lists.count()),
        lists.capacity(),
        by.offsets,
        by.entries,
        lists.tokens(),
        lists.m());
    return by;
  }

  @ParameterizedTest
  @CsvSource({
    "1, 4, 2",
    "50, 30, 7",
    "9, 500, 20",
    "40, 1, 1",
    "700, 5, 3",
    "4300, 9000, 2",
    "9000, 1, 1"
  })
  void byLatentListsEveryEntryOfALatentInOrder(int tokens, int m, int capacity) {
    Lists lists = Lists.random(random, tokens, m, capacity);
    List<List<Integer>> expected = new ArrayList<>();
    for (int i = 0; i < m; i++) expected.add(new ArrayList<>());
    lists.forEach((t, entry, latent) -> expected.get(latent).add(entry));

    ByLatent by = byLatent(lists);
    int[] offsets = TestBuffers.toInts(by.offsets);
    int[] entries = TestBuffers.toInts(by.entries);
    assertEquals(0, offsets[0]);
    assertEquals(Arrays.stream(lists.count()).sum(), offsets[m]);
    for (int i = 0; i < m; i++) {
      int[] found = Arrays.copyOfRange(entries, offsets[i], offsets[i + 1]);
      assertArrayEquals(expected.get(i).stream().mapToInt(e -> e).toArray(), found);
    }
  }

  @Test
  void byLatentRefusesALatentThatIsNone() {
    assumeFalse(kernelsAreCuda());
    Lists lists = new Lists(1, 3, 2, new int[] {1, 3}, new float[2], new int[] {2});
    NativeException e = assertThrows(NativeException.class, () -> byLatent(lists));
    assertTrue(e.getMessage().contains("latent 3 of row 0"), e.getMessage());
  }

  @ParameterizedTest
  @CsvSource({"1, 5, 3, 1, true", "30, 40, 5, 33, false", "60, 20, 9, 65, true"})
  void weightBackward(int tokens, int m, int capacity, int d, boolean centred) {
    Lists lists = Lists.random(random, tokens, m, capacity);
    float[] dPre = lists.values(random);
    float[] x = random(tokens * d);
    float[] bPre = random(d);
    float[] dOut = random(tokens * d);
    float[] encBefore = random(m * d);
    float[] biasBefore = random(m);
    float[] decBefore = random(m * d);
    MemorySegment dWEnc = buffers.changing(encBefore);
    MemorySegment dBEnc = buffers.changing(biasBefore);
    MemorySegment dWDec = buffers.changing(decBefore);
    ByLatent by = byLatent(lists);
    kernels.saeWeightBackward(
        buffers.input(x),
        centred ? buffers.input(bPre) : NULL,
        buffers.input(dOut),
        buffers.input(lists.value()),
        buffers.input(dPre),
        by.offsets,
        by.entries,
        capacity,
        dWEnc,
        dBEnc,
        dWDec,
        d,
        m);
    double[] enc = doubles(encBefore);
    double[] bias = doubles(biasBefore);
    double[] dec = doubles(decBefore);
    double[] encSizes = sizes(encBefore);
    double[] biasSizes = sizes(biasBefore);
    double[] decSizes = sizes(decBefore);
    lists.forEach(
        (t, entry, latent) -> {
          bias[latent] += dPre[entry];
          biasSizes[latent] += Math.abs(dPre[entry]);
          for (int c = 0; c < d; c++) {
            double centre = centred ? bPre[c] : 0;
            double toEnc = dPre[entry] * (x[t * d + c] - centre);
            double toDec = (double) lists.value()[entry] * dOut[t * d + c];
            enc[latent * d + c] += toEnc;
            encSizes[latent * d + c] +=
                Math.abs(dPre[entry]) * (Math.abs(x[t * d + c]) + Math.abs(centre));
            dec[latent * d + c] += toDec;
            decSizes[latent * d + c] += Math.abs(toDec);
          }
        });
    double roundings = EPS * (Math.sqrt(tokens) + 2);
    assertNear("d_w_enc", enc, dWEnc, i -> roundings * encSizes[i]);
    assertNear("d_b_enc", bias, dBEnc, i -> roundings * biasSizes[i]);
    assertNear("d_w_dec", dec, dWDec, i -> roundings * decSizes[i]);
  }

  private static double[] sizes(float[] values) {
    return Arrays.stream(doubles(values)).map(Math::abs).toArray();
  }

  @ParameterizedTest
  @ValueSource(ints = {SaeEncodeTest.RELU, SaeEncodeTest.JUMPRELU, SaeEncodeTest.TOPK})
  void activationBackward(int kind) {
    int tokens = 50;
    int m = 40;
    int capacity = 9;
    boolean jump = kind == SaeEncodeTest.JUMPRELU;
    Lists lists = Lists.random(random, tokens, m, capacity);
    float[] dValue = lists.values(random);
    float[] threshold = random(m, 0.3);
    float[] pre = lists.values(random);
    float[] value = lists.value().clone();
    lists.forEach(
        (t, entry, latent) -> {
          if (entry % 3 == 0) pre[entry] = threshold[latent] + 0.2f * (pre[entry] - 0.5f);
          boolean active = pre[entry] > threshold[latent] && pre[entry] > 0;
          value[entry] = jump && !active ? 0 : Math.abs(pre[entry]);
        });
    float l1 = 0.03f;
    float l0 = 0.4f;
    float bandwidth = 0.25f;
    float[] before = random(m);
    MemorySegment inPlace = buffers.changing(dValue);
    MemorySegment dThreshold = jump ? buffers.changing(before) : NULL;
    ByLatent by = byLatent(lists);
    kernels.saeActivationBackward(
        inPlace,
        jump ? buffers.input(pre) : NULL,
        buffers.input(value),
        buffers.input(lists.index()),
        buffers.input(lists.count()),
        capacity,
        kind,
        jump ? buffers.input(threshold) : NULL,
        buffers.input(l1, l0),
        bandwidth,
        dThreshold,
        jump ? by.offsets : NULL,
        jump ? by.entries : NULL,
        tokens,
        m);
    double[] expected = doubles(dValue);
    double[] gradient = doubles(before);
    double[] sizes = sizes(before);
    lists.forEach(
        (t, entry, latent) -> {
          double theta = threshold[latent];
          boolean active = !jump || (pre[entry] > theta && pre[entry] > 0);
          boolean penalised = !jump || value[entry] > 0;
          expected[entry] = (active ? dValue[entry] : 0) + (penalised ? l1 : 0);
          if (Math.abs((pre[entry] - theta) / bandwidth) < 0.5) {
            gradient[latent] -= (theta * dValue[entry] + l0) / bandwidth;
            sizes[latent] += (Math.abs(theta * dValue[entry]) + l0) / bandwidth;
          }
        });
    float[] actual = TestBuffers.toFloats(inPlace);
    for (int i = 0; i < actual.length; i++) {
      if (Float.isNaN(dValue[i])) {
        assertTrue(Float.isNaN(actual[i]), "no entry, and yet written");
        actual[i] = 0;
        expected[i] = 0;
      }
    }
    assertNear("d_pre", expected, actual, i -> EPS * (Math.abs(dValue[i]) + l1));
    if (jump) assertNear("d_threshold", gradient, dThreshold, i -> EPS * sizes[i]);
  }

  /**
   * What the straight-through estimator estimates: the derivative of the mean loss over many z with
   * respect to the threshold. With z on a grid that is symmetric about it, the estimate is the
   * central difference over the kernel's width.
   */
  @Test
  void theThresholdsGradientIsTheMeanLossesDerivative() {
    int tokens = 2000;
    float theta = 1;
    float bandwidth = 0.25f;
    float slope = 0.7f; // of the loss with respect to the latent
    float l0 = 0.3f;
    float[] z = new float[tokens];
    float[] value = new float[tokens];
    float[] dValue = new float[tokens];
    int[] ones = new int[tokens];
    for (int t = 0; t < tokens; t++) {
      z[t] = theta + (t - (tokens - 1) / 2f) * 0x1p-11f;
      value[t] = z[t] > theta ? z[t] : 0;
      dValue[t] = slope / tokens;
      ones[t] = 1;
    }
    Lists lists = new Lists(tokens, 1, 1, new int[tokens], value, ones);
    ByLatent by = byLatent(lists);
    MemorySegment dThreshold = buffers.changing(0);
    kernels.saeActivationBackward(
        buffers.changing(dValue),
        buffers.input(z),
        buffers.input(value),
        buffers.input(lists.index()),
        buffers.input(ones),
        1,
        SaeEncodeTest.JUMPRELU,
        buffers.input(theta),
        buffers.input(0, l0 / tokens),
        bandwidth,
        dThreshold,
        by.offsets,
        by.entries,
        tokens,
        1);
    double above = meanLoss(z, theta + bandwidth / 2, slope, l0);
    double below = meanLoss(z, theta - bandwidth / 2, slope, l0);
    double expected = (above - below) / bandwidth;
    assertEquals(expected, TestBuffers.toFloats(dThreshold)[0], 1e-5 * Math.abs(expected));
  }

  private static double meanLoss(float[] z, double theta, double slope, double l0) {
    double sum = 0;
    for (float value : z) if (value > theta) sum += slope * value + l0;
    return sum / z.length;
  }

  /** The kernels one after another, from encoding to the last gradient. */
  @ParameterizedTest
  @ValueSource(ints = {SaeEncodeTest.RELU, SaeEncodeTest.JUMPRELU, SaeEncodeTest.TOPK})
  void theWholeChainIsTheGradient(int kind) {
    int tokens = 6;
    int d = 7;
    int m = 19;
    int k = 4;
    float l1 = kind == SaeEncodeTest.TOPK ? 0 : 0.05f;
    boolean jump = kind == SaeEncodeTest.JUMPRELU;
    float[] x = random(tokens * d);
    float[] wEnc = random(m * d);
    float[] bEnc = random(m);
    float[] bPre = random(d);
    float[] wDec = random(m * d);
    float[] bDec = random(d);
    float[] threshold = random(m, 0.5);
    float[] weight = random(tokens * d);
    SaeReference reference =
        new SaeReference(
            kind,
            d,
            m,
            k,
            doubles(wEnc),
            doubles(bEnc),
            doubles(bPre),
            doubles(wDec),
            doubles(bDec),
            doubles(threshold),
            l1);
    SaeReference.Gradients expected = reference.gradients(doubles(x), doubles(weight));

    // The reference against central differences.
    assertGradient(v -> reference.loss(v, doubles(weight)), doubles(x), expected.dX());
    assertGradient(
        v ->
            new SaeReference(
                    kind,
                    d,
                    m,
                    k,
                    v,
                    doubles(bEnc),
                    doubles(bPre),
                    doubles(wDec),
                    doubles(bDec),
                    doubles(threshold),
                    l1)
                .loss(doubles(x), doubles(weight)),
        doubles(wEnc),
        expected.dWEnc());
    assertGradient(
        v ->
            new SaeReference(
                    kind,
                    d,
                    m,
                    k,
                    doubles(wEnc),
                    v,
                    doubles(bPre),
                    doubles(wDec),
                    doubles(bDec),
                    doubles(threshold),
                    l1)
                .loss(doubles(x), doubles(weight)),
        doubles(bEnc),
        expected.dBEnc());
    assertGradient(
        v ->
            new SaeReference(
                    kind,
                    d,
                    m,
                    k,
                    doubles(wEnc),
                    doubles(bEnc),
                    doubles(bPre),
                    v,
                    doubles(bDec),
                    doubles(threshold),
                    l1)
                .loss(doubles(x), doubles(weight)),
        doubles(wDec),
        expected.dWDec());

    // The kernels against the reference.
    int capacity = m;
    MemorySegment index = buffers.ints(tokens * capacity);
    MemorySegment value = buffers.floats(tokens * capacity);
    MemorySegment pre = buffers.floats(tokens * capacity);
    MemorySegment count = buffers.ints(tokens);
    MemorySegment scratch = buffers.floats(Math.toIntExact(kernels.saeEncodeScratch(d, m)));
    MemorySegment xIn = buffers.input(x);
    MemorySegment wEncIn = buffers.input(wEnc);
    MemorySegment bPreIn = buffers.input(bPre);
    MemorySegment thresholdIn = jump ? buffers.input(threshold) : NULL;
    MemorySegment weightIn = buffers.input(weight);
    float margin = jump ? 0.1f : 0;
    kernels.saeEncode(
        xIn,
        wEncIn,
        buffers.input(bEnc),
        bPreIn,
        kind,
        thresholdIn,
        margin,
        k,
        NULL,
        index,
        value,
        pre,
        count,
        capacity,
        NULL,
        scratch,
        tokens,
        d,
        m);
    MemorySegment dValue = buffers.floats(tokens * capacity);
    kernels.saeDecodeBackward(
        weightIn, index, count, capacity, buffers.input(wDec), dValue, tokens, d);
    MemorySegment offsets = buffers.ints(m + 1);
    MemorySegment entries = buffers.ints(tokens * capacity);
    kernels.saeByLatent(index, count, capacity, offsets, entries, tokens, m);
    kernels.saeActivationBackward(
        dValue,
        pre,
        value,
        index,
        count,
        capacity,
        kind,
        thresholdIn,
        buffers.input(l1, 0),
        0.2f,
        NULL,
        NULL,
        NULL,
        tokens,
        m);
    MemorySegment dWEnc = buffers.changing(new float[m * d]);
    MemorySegment dBEnc = buffers.changing(new float[m]);
    MemorySegment dWDec = buffers.changing(new float[m * d]);
    kernels.saeWeightBackward(
        xIn, bPreIn, weightIn, value, dValue, offsets, entries, capacity, dWEnc, dBEnc, dWDec, d,
        m);
    MemorySegment dX = buffers.floats(tokens * d);
    kernels.saeEncodeBackward(
        dValue, index, count, capacity, wEncIn, NULL, NULL, dX, false, tokens, d);
    assertNear("d_x", expected.dX(), dX, i -> 1e-5 * largest(expected.dX()));
    assertNear("d_w_enc", expected.dWEnc(), dWEnc, i -> 1e-5 * largest(expected.dWEnc()));
    assertNear("d_b_enc", expected.dBEnc(), dBEnc, i -> 1e-5 * largest(expected.dBEnc()));
    assertNear("d_w_dec", expected.dWDec(), dWDec, i -> 1e-5 * largest(expected.dWDec()));
  }

  private static double largest(double[] values) {
    return Arrays.stream(values).map(Math::abs).max().orElse(0);
  }

  @Test
  void isTheSameForAnyThreads() {
    int tokens = 4200;
    int d = 16;
    int m = 17_000;
    Lists lists = Lists.random(random, tokens, m, 16);
    float[] dPre = lists.values(random);
    for (int i = 0; i < dPre.length; i++) if (Float.isNaN(dPre[i])) dPre[i] = 0;
    MemorySegment x = buffers.input(random(tokens * d));
    MemorySegment dOut = buffers.input(random(tokens * d));
    MemorySegment value = buffers.input(lists.value());
    MemorySegment pre = buffers.input(lists.values(random));
    MemorySegment index = buffers.input(lists.index());
    MemorySegment count = buffers.input(lists.count());
    MemorySegment threshold = buffers.input(random(m));
    MemorySegment sparsity = buffers.input(0.1f, 0.2f);
    float[] zeros = new float[m * d];
    assertSameForAnyThreads(
        () -> {
          ByLatent by = byLatent(lists);
          MemorySegment inPlace = buffers.changing(dPre);
          MemorySegment dThreshold = buffers.changing(new float[m]);
          kernels.saeActivationBackward(
              inPlace,
              pre,
              value,
              index,
              count,
              16,
              SaeEncodeTest.JUMPRELU,
              threshold,
              sparsity,
              0.5f,
              dThreshold,
              by.offsets,
              by.entries,
              tokens,
              m);
          MemorySegment dWEnc = buffers.changing(zeros);
          MemorySegment dBEnc = buffers.changing(new float[m]);
          MemorySegment dWDec = buffers.changing(zeros);
          kernels.saeWeightBackward(
              x, NULL, dOut, value, inPlace, by.offsets, by.entries, 16, dWEnc, dBEnc, dWDec, d, m);
          return concat(inPlace, dThreshold, dWEnc, dBEnc, dWDec);
        });
  }

  @ParameterizedTest
  @CsvSource({"1, 1", "7, 33", "130, 65"})
  void normalizeRows(int rows, int d) {
    float[] w = random(rows * d, 5);
    if (rows > 1) Arrays.fill(w, d, 2 * d, 0); // a row of norm 0
    MemorySegment out = buffers.changing(w);
    kernels.normalizeRows(out, rows, d);
    double[] expected = new double[rows * d];
    for (int r = 0; r < rows; r++) {
      double norm = Math.sqrt(rowDot(w, w, r, d));
      for (int c = 0; c < d; c++) expected[r * d + c] = norm == 0 ? 0 : w[r * d + c] / norm;
    }
    assertNear("w", expected, out, relative(expected, 1.5));
  }

  @ParameterizedTest
  @CsvSource({"1, 1", "7, 33", "130, 65"})
  void removeParallel(int rows, int d) {
    float[] w = random(rows * d);
    if (rows > 1) Arrays.fill(w, d, 2 * d, 0);
    float[] grad = random(rows * d);
    MemorySegment out = buffers.changing(grad);
    kernels.removeParallel(buffers.input(w), out, rows, d);
    double[] expected = doubles(grad);
    double[] sizes = sizes(grad);
    for (int r = 0; r < rows; r++) {
      double squares = rowDot(w, w, r, d);
      if (squares == 0) continue;
      double along = rowDot(grad, w, r, d) / squares;
      for (int c = 0; c < d; c++) {
        expected[r * d + c] -= along * w[r * d + c];
        sizes[r * d + c] += Math.abs(along * w[r * d + c]);
      }
    }
    assertNear("grad", expected, out, i -> 1.5 * EPS * sizes[i]);
  }

  private static double rowDot(float[] a, float[] b, int row, int d) {
    double sum = 0;
    for (int c = 0; c < d; c++) sum += (double) a[row * d + c] * b[row * d + c];
    return sum;
  }
}
