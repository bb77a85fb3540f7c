package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.bindings.NativeException;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Dead latents, targets of sparsity, and what balances losses. */
class SaeTrainingTest extends KernelTest {

  private final Random random = new Random(23);

  private static byte[] keep(int tokens, int... kept) {
    byte[] keep = new byte[tokens];
    for (int t : kept) keep[t] = 1;
    return keep;
  }

  private static double[] toDoubles(MemorySegment buffer) {
    return TestBuffers.toDoubles(buffer);
  }

  @Test
  void activityCountsEntriesRowsAndSilence() {
    int m = 6;
    // Token 1 is kept; latent 2 of token 2 is listed without a value.
    MemorySegment index = buffers.input(0, 3, 9, 9, 2, 3);
    MemorySegment value = buffers.input(1.5f, 0.5f, Float.NaN, Float.NaN, 0, 2);
    MemorySegment count = buffers.input(2, 0, 2);
    MemorySegment silent = buffers.changing(7, 0, 4, 100, 0x1p24f, 0x1p24f - 1);
    MemorySegment activity = buffers.doubles(3);
    MemorySegment keep = buffers.input(keep(3, 1));
    kernels.saeActivity(index, value, count, 2, keep, silent, 5, activity, 3, m);
    assertArrayEquals(new float[] {0, 2, 6, 0, 0x1p24f, 0x1p24f}, TestBuffers.toFloats(silent));
    assertArrayEquals(new double[] {3, 2, 3}, toDoubles(activity));
    kernels.saeActivity(index, value, count, 2, NULL, NULL, 5, activity, 3, m);
    assertArrayEquals(new double[] {3, 3, 0}, toDoubles(activity));
  }

  /**
   * Batches on two ranks, each begun at -2^24, brought into one state, against one that saw them
   * one after another.
   */
  @Test
  void followIsAsIfBatchesHadBeenSeen() {
    int m = 5;
    int batches = 2;
    float[] began = {7, 0, 4, 0x1p24f - 3, 100};
    MemorySegment seen = buffers.changing(began);
    MemorySegment silent = buffers.changing(began);
    MemorySegment threshold = buffers.changing(-1);
    MemorySegment activity = buffers.doubles(3);
    MemorySegment value = buffers.input(1f, 1f, 1f);
    MemorySegment count = buffers.input(1, 1, 1);
    int[][][] listed = {{{0, 1, 0}, {1, 1, 1}}, {{2, 2, 2}, {0, 2, 0}}}; // 3 and 4 never
    float[][] smallest = {{0.5f, -1}, {1.5f, 0.25f}}; // nothing is kept of the second batch
    for (int rank = 0; rank < 2; rank++) {
      float[] begin = new float[m];
      Arrays.fill(begin, -0x1p24f);
      MemorySegment own = buffers.changing(begin);
      for (int[] latents : listed[rank]) {
        MemorySegment index = buffers.input(latents);
        kernels.saeActivity(index, value, count, 1, NULL, seen, 5, activity, 3, m);
        kernels.saeActivity(index, value, count, 1, NULL, own, 5, activity, 3, m);
      }
      float[] later = Arrays.copyOf(TestBuffers.toFloats(own), m + batches);
      System.arraycopy(smallest[rank], 0, later, m, batches);
      MemorySegment follows = buffers.input(later);
      MemorySegment tooShort = buffers.input(3);
      kernels.saeFollow(silent, threshold, 0.25f, follows, batches, tooShort, m); // changes nothing
      kernels.saeFollow(silent, threshold, 0.25f, follows, batches, buffers.input(0), m);
    }
    assertArrayEquals(new float[] {0, 6, 0, 0x1p24f, 112}, TestBuffers.toFloats(silent));
    assertArrayEquals(TestBuffers.toFloats(seen), TestBuffers.toFloats(silent));
    // 0.5, then a quarter of the way to 1.5, then a quarter of the way to 0.25
    assertEquals(0.625f, TestBuffers.toFloats(threshold)[0], 1e-7);
  }

  /** Against differences of s (L0 / target - 1)^2 in the number of active entries. */
  @ParameterizedTest
  @CsvSource({"500, 40, 10, 0.5", "100, 40, 10, 2", "400, 40, 10, 1"})
  void l0Pull(double active, double rows, float target, float strength) {
    MemorySegment activity = buffers.doubles(3);
    Transfer.write(activity, MemorySegment.ofArray(new double[] {active, rows, 0}));
    MemorySegment sparsity = buffers.changing(0.25f, Float.NaN, strength);
    kernels.saeL0Pull(activity, target, sparsity);
    double step = 1e-3;
    double above = Math.pow((active + step) / rows / target - 1, 2);
    double below = Math.pow((active - step) / rows / target - 1, 2);
    float[] found = TestBuffers.toFloats(sparsity);
    assertEquals(strength * (above - below) / (2 * step), found[1], 1e-9);
    assertEquals(0.25f, found[0]);
    assertEquals(strength, found[2]);
  }

  @Test
  void l0PullOfNothingIsNone() {
    MemorySegment activity = buffers.doubles(3);
    Transfer.clear(activity);
    MemorySegment sparsity = buffers.changing(0, 7, 1);
    kernels.saeL0Pull(activity, 5, sparsity);
    assertArrayEquals(new float[] {0, 0, 1}, TestBuffers.toFloats(sparsity));
    assertThrows(NativeException.class, () -> kernels.saeL0Pull(activity, 0, sparsity));
  }

  @ParameterizedTest
  @CsvSource({
    "5, 7, 40, 3, true",
    "5, 7, 40, 40, true",
    "70, 33, 300, 9, false",
    "210, 3, 40000, 7, true"
  })
  void encodeSilent(int tokens, int d, int m, int k, boolean centred) {
    float[] x = random(tokens * d);
    float[] wEnc = random(m * d);
    float[] bEnc = random(m);
    float[] bPre = random(d);
    float[] silent = new float[m];
    for (int i = 0; i < m; i++) silent[i] = i % 5 == 0 ? 10 : i % 3 == 0 ? 9.5f : 20;
    byte[] keep = keep(tokens, 2);
    MemorySegment index = buffers.ints(tokens * k);
    MemorySegment value = buffers.floats(tokens * k);
    MemorySegment count = buffers.ints(tokens);
    kernels.saeEncodeSilent(
        buffers.input(x),
        buffers.input(wEnc),
        buffers.input(bEnc),
        centred ? buffers.input(bPre) : NULL,
        buffers.input(silent),
        10,
        k,
        buffers.input(keep),
        index,
        value,
        count,
        k,
        buffers.floats(Math.toIntExact(kernels.saeEncodeScratch(d, m))),
        tokens,
        d,
        m);
    int[] indices = TestBuffers.toInts(index);
    float[] values = TestBuffers.toFloats(value);
    int[] counts = TestBuffers.toInts(count);
    for (int t = 0; t < tokens; t++) {
      double[] z = new double[m];
      double[] sizes = new double[m];
      List<Integer> candidates = new ArrayList<>();
      for (int i = 0; i < m; i++) {
        z[i] = bEnc[i];
        sizes[i] = Math.abs(bEnc[i]);
        for (int c = 0; c < d; c++) {
          double term = wEnc[i * d + c] * ((double) x[t * d + c] - (centred ? bPre[c] : 0));
          z[i] += term;
          sizes[i] += Math.abs(term);
        }
        if (silent[i] > 10 && z[i] > 0 && keep[t] == 0) candidates.add(i);
      }
      candidates.sort(Comparator.comparingDouble(i -> -z[i]));
      int[] expected = candidates.stream().limit(k).mapToInt(Integer::intValue).sorted().toArray();
      assertArrayEquals(expected, Arrays.copyOfRange(indices, t * k, t * k + counts[t]));
      for (int j = 0; j < counts[t]; j++) {
        int latent = indices[t * k + j];
        double bound = EPS * (Math.sqrt(d) + 2) * sizes[latent];
        assertEquals(z[latent], values[t * k + j], bound);
      }
    }
  }

  @Test
  void encodeSilentFindsNothingWhereNoneIsSilent() {
    MemorySegment count = buffers.ints(2);
    MemorySegment index = buffers.ints(2);
    MemorySegment value = buffers.floats(2);
    kernels.saeEncodeSilent(
        buffers.input(1, 1),
        buffers.input(1, 1, 1),
        buffers.input(1, 1, 1),
        NULL,
        buffers.input(0f, 3, 2),
        3,
        1,
        NULL,
        index,
        value,
        count,
        1,
        buffers.floats(Math.toIntExact(kernels.saeEncodeScratch(1, 3))),
        2,
        1,
        3);
    assertArrayEquals(new int[] {0, 0}, TestBuffers.toInts(count));
  }

  /** An entry of a batch, in the order of lists. */
  private record Entry(int row, int latent, float value) {}

  /** Lists of positive values, many of them equal; row 2 is kept. */
  private Lists positive(int tokens, int m, int capacity) {
    Lists lists = Lists.random(random, tokens, m, capacity);
    float[] value = lists.value();
    lists.forEach((t, entry, latent) -> value[entry] = 0.25f * (1 + random.nextInt(9)));
    int[] count = lists.count();
    if (tokens > 2) count[2] = 0;
    return lists;
  }

  @ParameterizedTest
  @CsvSource({"9, 30, 7, 2", "40, 90, 30, 4", "1, 5, 5, 1", "4, 6, 6, 50"})
  void batchTopk(int tokens, int m, int capacity, int k) {
    Lists lists = positive(tokens, m, capacity);
    byte[] keep = tokens > 2 ? keep(tokens, 2) : new byte[tokens];
    List<Entry> all = new ArrayList<>();
    lists.forEach((t, entry, latent) -> all.add(new Entry(t, latent, lists.value()[entry])));
    all.sort(Comparator.comparingDouble((Entry e) -> -e.value)); // stable: rows, then indices
    int wanted = (tokens > 2 ? tokens - 1 : tokens) * k;
    List<Entry> expected = new ArrayList<>(all.subList(0, Math.min(wanted, all.size())));
    float least = expected.isEmpty() ? -1 : expected.getLast().value;
    expected.sort(Comparator.comparingInt(Entry::row).thenComparingInt(Entry::latent));

    MemorySegment index = buffers.ints(tokens * capacity);
    Transfer.write(index, lists.index());
    MemorySegment value = buffers.changing(lists.value());
    MemorySegment count = buffers.ints(tokens);
    Transfer.write(count, lists.count());
    MemorySegment smallest = buffers.floats(1);
    boolean enough =
        kernels.saeBatchTopk(
            index, value, count, capacity, k, buffers.input(keep), smallest, NULL, tokens, m);
    assertTrue(enough);
    List<Entry> found = new ArrayList<>();
    int[] indices = TestBuffers.toInts(index);
    float[] values = TestBuffers.toFloats(value);
    int[] counts = TestBuffers.toInts(count);
    for (int t = 0; t < tokens; t++) {
      for (int at = t * capacity; at < t * capacity + counts[t]; at++) {
        found.add(new Entry(t, indices[at], values[at]));
      }
    }
    assertEquals(expected, found);
    assertEquals(least, TestBuffers.toFloats(smallest)[0]);
  }

  @Test
  void batchTopkSaysWhenAListIsTooShort() {
    int[] index = {0, 1, 0, 1};
    float[] value = {5, 4, 1, 2};
    MemorySegment indices = buffers.input(index);
    MemorySegment values = buffers.input(value);
    MemorySegment count = buffers.input(2, 2);
    MemorySegment untouched = buffers.input(-1f);
    // Row 0 keeps both of its entries, and may have had a third that is above row 1's.
    if (kernelsAreCuda()) {
      assertBatchTopkRaisesOverflow(index, value);
    } else {
      assertFalse(kernels.saeBatchTopk(indices, values, count, 2, 1, NULL, untouched, NULL, 2, 3));
    }
    // With m = 2 there is no third.
    MemorySegment i = buffers.ints(4);
    Transfer.write(i, index);
    MemorySegment v = buffers.changing(value);
    MemorySegment c = buffers.ints(2);
    Transfer.write(c, new int[] {2, 2});
    MemorySegment smallest = buffers.floats(1);
    assertTrue(kernels.saeBatchTopk(i, v, c, 2, 1, NULL, smallest, NULL, 2, 2));
    assertArrayEquals(new int[] {2, 0}, TestBuffers.toInts(c));
    assertArrayEquals(new float[] {4}, TestBuffers.toFloats(smallest));
  }

  private void assertBatchTopkRaisesOverflow(int[] index, float[] value) {
    MemorySegment smallest = buffers.floats(1);
    MemorySegment overflow = buffers.changing(0); // whose bits are those of the integer
    MemorySegment i = buffers.ints(4);
    Transfer.write(i, index);
    MemorySegment v = buffers.changing(value);
    MemorySegment c = buffers.ints(2);
    Transfer.write(c, new int[] {2, 2});
    assertTrue(kernels.saeBatchTopk(i, v, c, 2, 1, NULL, smallest, overflow, 2, 3));
    assertArrayEquals(new int[] {3}, TestBuffers.toInts(overflow));
  }

  @Test
  void batchTopkKeepsNaN() {
    MemorySegment index = buffers.ints(2);
    Transfer.write(index, new int[] {1, 0});
    MemorySegment value = buffers.changing(3, Float.NaN);
    MemorySegment count = buffers.ints(2);
    Transfer.write(count, new int[] {1, 1});
    MemorySegment smallest = buffers.floats(1);
    byte[] keep = {1, 0};
    MemorySegment kept = buffers.input(keep);
    assertTrue(kernels.saeBatchTopk(index, value, count, 1, 1, kept, smallest, NULL, 2, 1));
    assertArrayEquals(new int[] {0, 1}, TestBuffers.toInts(count));
    assertTrue(Float.isNaN(TestBuffers.toFloats(value)[1]));
    assertEquals(-1, TestBuffers.toFloats(smallest)[0]);
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 1, 17, 40})
  void prefix(int limit) {
    Lists lists = Lists.random(random, 30, 40, 9);
    MemorySegment prefix = buffers.ints(30);
    kernels.saePrefix(
        buffers.input(lists.index()), buffers.input(lists.count()), 9, limit, prefix, 30);
    int[] expected = new int[30];
    lists.forEach((t, entry, latent) -> expected[t] += latent < limit ? 1 : 0);
    assertArrayEquals(expected, TestBuffers.toInts(prefix));
  }

  /** The loss of gated entries: sum of weight * value + gateWeight * u + l1 * u. */
  private static double gatedLoss(
      Lists lists,
      double[] p,
      double[] bGate,
      double[] r,
      double[] bMag,
      float[] weight,
      float[] gateWeight,
      double l1) {
    double[] loss = new double[1];
    lists.forEach(
        (t, entry, i) -> {
          double u = p[entry] + bGate[i];
          double value = Math.max(0, Math.exp(r[i]) * p[entry] + bMag[i]);
          loss[0] += weight[entry] * value + (gateWeight[entry] + l1) * u;
        });
    return loss[0];
  }

  @Test
  void gated() {
    int tokens = 12;
    int m = 20;
    int capacity = 6;
    Lists lists = Lists.random(random, tokens, m, capacity);
    float[] bGate = random(m, 0.3);
    float[] rMag = random(m, 0.3);
    float[] bMag = random(m, 0.8);
    float[] pre = lists.values(random);
    float[] weight = lists.values(random);
    float[] gateWeight = lists.values(random);
    float l1 = 0.3f;
    MemorySegment value = buffers.floats(tokens * capacity);
    MemorySegment index = buffers.input(lists.index());
    MemorySegment count = buffers.input(lists.count());
    kernels.saeGatedForward(
        index,
        buffers.input(pre),
        count,
        capacity,
        buffers.input(bGate),
        buffers.input(rMag),
        buffers.input(bMag),
        value,
        tokens,
        m);
    double[] p = new double[tokens * capacity];
    float[] found = TestBuffers.toFloats(value);
    int[] zeros = new int[1];
    lists.forEach(
        (t, entry, i) -> {
          p[entry] = (double) pre[entry] - bGate[i];
          double s = Math.exp(rMag[i]) * p[entry] + bMag[i];
          double sizes =
              Math.exp(rMag[i]) * (Math.abs(pre[entry]) + Math.abs(bGate[i])) + Math.abs(bMag[i]);
          assertEquals(Math.max(0, s), found[entry], 4 * EPS * sizes);
          zeros[0] += s < 0 ? 1 : 0;
        });
    assertTrue(zeros[0] > 0, "some magnitudes are 0");

    MemorySegment offsets = buffers.ints(m + 1);
    MemorySegment byLatent = buffers.ints(tokens * capacity);
    kernels.saeByLatent(index, count, capacity, offsets, byLatent, tokens, m);
    MemorySegment dPre = buffers.changing(weight);
    MemorySegment dBGate = buffers.changing(new float[m]);
    MemorySegment dRMag = buffers.changing(new float[m]);
    MemorySegment dBMag = buffers.changing(new float[m]);
    kernels.saeGatedBackward(
        dPre,
        buffers.input(gateWeight),
        buffers.input(pre),
        value,
        offsets,
        byLatent,
        buffers.input(l1),
        buffers.input(bGate),
        buffers.input(rMag),
        dBGate,
        dRMag,
        dBMag,
        m);
    float[] actual = TestBuffers.toFloats(dPre);
    double[] expectedGate = new double[m];
    double[] sizes = new double[m];
    lists.forEach(
        (t, entry, i) -> {
          double toP = Math.exp(rMag[i]) * (found[entry] > 0 ? weight[entry] : 0);
          double toU = (double) gateWeight[entry] + l1;
          assertEquals(toP + toU, actual[entry], 4 * EPS * (Math.abs(toP) + Math.abs(toU)));
          expectedGate[i] -= toP;
          sizes[i] += Math.abs(toP);
        });
    assertNear("d_b_gate", expectedGate, TestBuffers.toFloats(dBGate), i -> 3 * EPS * sizes[i]);
    // What weight_backward adds completes the gate's gradient; all of them against differences.
    double[] gate = doubles(TestBuffers.toFloats(dBGate));
    lists.forEach((t, entry, i) -> gate[i] += actual[entry]);
    double[] r = doubles(rMag);
    double[] mag = doubles(bMag);
    double[] open = doubles(bGate);
    assertGradientNear(v -> gatedLoss(lists, p, v, r, mag, weight, gateWeight, l1), open, gate);
    assertGradientNear(
        v -> gatedLoss(lists, p, open, v, mag, weight, gateWeight, l1),
        r,
        doubles(TestBuffers.toFloats(dRMag)));
    assertGradientNear(
        v -> gatedLoss(lists, p, open, r, v, weight, gateWeight, l1),
        mag,
        doubles(TestBuffers.toFloats(dBMag)));
  }

  /** The kernel's float32 gradient against central differences: 1e-5 is a few dozen roundings. */
  private static void assertGradientNear(
      java.util.function.ToDoubleFunction<double[]> loss, double[] at, double[] actual) {
    double step = 1e-6;
    for (int i = 0; i < at.length; i++) {
      double original = at[i];
      at[i] = original + step;
      double above = loss.applyAsDouble(at);
      at[i] = original - step;
      double below = loss.applyAsDouble(at);
      at[i] = original;
      double expected = (above - below) / (2 * step);
      assertEquals(expected, actual[i], 1e-5 * (1 + Math.abs(expected)), "gradient [" + i + "]");
    }
  }

  @ParameterizedTest
  @CsvSource({"false, false", "true, false", "true, true"})
  void mseBackward(boolean accumulate, boolean balanced) {
    int tokens = 9;
    int d = 33;
    float[] x = random(tokens * d);
    float[] y = random(tokens * d);
    float[] before = random(tokens * d);
    float[] error = random(tokens, 0.1);
    float[] kl = random(tokens, 0.1);
    byte[] keep = keep(tokens, 4);
    float scale = 0.7f;
    MemorySegment dY = accumulate ? buffers.changing(before) : buffers.floats(tokens * d);
    kernels.saeMseBackward(
        buffers.input(x),
        buffers.input(y),
        buffers.input(keep),
        balanced ? buffers.input(error) : NULL,
        balanced ? buffers.input(kl) : NULL,
        0.3f,
        dY,
        accumulate,
        scale,
        tokens,
        d);
    double weight =
        balanced
            ? 0.3f * Arrays.stream(doubles(error)).sum() / Arrays.stream(doubles(kl)).sum()
            : 1;
    double[] expected = new double[tokens * d];
    double[] sizes = new double[tokens * d];
    for (int i = 0; i < expected.length; i++) {
      double behind = accumulate ? weight * before[i] : 0;
      double own = keep[i / d] != 0 ? 0 : 2.0 * scale * ((double) y[i] - x[i]);
      double terms = keep[i / d] != 0 ? 0 : 2.0 * scale * (Math.abs(y[i]) + Math.abs(x[i]));
      expected[i] = behind + own;
      sizes[i] = Math.abs(behind) + terms;
    }
    assertNear("d_y", expected, dY, i -> 3 * EPS * sizes[i]);
  }

  @Test
  void aGradientOfNoDivergenceHasNoWeight() {
    MemorySegment dY = buffers.changing(4, 4);
    kernels.saeMseBackward(
        buffers.input(1f, 1),
        buffers.input(2f, 3),
        NULL,
        buffers.input(5f),
        buffers.input(0f),
        1,
        dY,
        true,
        0.5f,
        1,
        2);
    assertArrayEquals(new float[] {1, 2}, TestBuffers.toFloats(dY));
  }

  @Test
  void isTheSameForAnyThreads() {
    int tokens = 3000;
    int d = 48;
    int m = 400;
    int k = 20;
    MemorySegment x = buffers.input(random(tokens * d));
    MemorySegment y = buffers.input(random(tokens * d));
    MemorySegment wEnc = buffers.input(random(m * d));
    MemorySegment bias = buffers.input(random(m));
    float[] ages = new float[m];
    for (int i = 0; i < m; i++) ages[i] = i % 3;
    MemorySegment silent = buffers.input(ages);
    MemorySegment error = buffers.input(random(tokens));
    MemorySegment scratch = buffers.floats(Math.toIntExact(kernels.saeEncodeScratch(d, m)));
    float[] behind = random(tokens * d);
    assertSameForAnyThreads(
        () -> {
          MemorySegment index = buffers.ints(tokens * k);
          MemorySegment value = buffers.changing(new float[tokens * k]);
          MemorySegment count = buffers.ints(tokens);
          kernels.saeEncodeSilent(
              x, wEnc, bias, NULL, silent, 1, k, NULL, index, value, count, k, scratch, tokens, d,
              m);
          MemorySegment magnitude = buffers.changing(new float[tokens * k]);
          kernels.saeGatedForward(index, value, count, k, bias, bias, bias, magnitude, tokens, m);
          MemorySegment prefix = buffers.ints(tokens);
          kernels.saePrefix(index, count, k, m / 2, prefix, tokens);
          MemorySegment offsets = buffers.ints(m + 1);
          MemorySegment byLatent = buffers.ints(tokens * k);
          kernels.saeByLatent(index, count, k, offsets, byLatent, tokens, m);
          MemorySegment dPre = buffers.changing(new float[tokens * k]);
          MemorySegment dBias = buffers.changing(new float[3 * m]);
          kernels.saeGatedBackward(
              dPre,
              value,
              value,
              magnitude,
              offsets,
              byLatent,
              NULL,
              bias,
              bias,
              dBias.asSlice(0, 4L * m),
              dBias.asSlice(4L * m, 4L * m),
              dBias.asSlice(8L * m, 4L * m),
              m);
          MemorySegment dY = buffers.changing(behind);
          kernels.saeMseBackward(x, y, NULL, error, error, 2, dY, true, 0.1f, tokens, d);
          return concat(index, value, count, magnitude, prefix, dPre, dBias, dY);
        });
  }
}
