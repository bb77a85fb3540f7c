package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import espalier.bindings.NativeException;
import espalier.device.DeviceChoice;
import espalier.device.ElementType;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.Comparator;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SaeEncodeTest extends KernelTest {

  static final int RELU = 0;
  static final int JUMPRELU = 1;
  static final int TOPK = 2;
  static final int GROUPMAX = 3;

  /** An encoder and what the kernel needs to know of it; absent parts are null. */
  private record Encoder(
      int kind,
      int d,
      int m,
      float[] w,
      float[] b,
      float[] bPre,
      float[] threshold,
      float margin,
      int k) {

    Encoder withMargin(float newMargin) {
      return new Encoder(kind, d, m, w, b, bPre, threshold, newMargin, k);
    }
  }

  private record Encoded(
      boolean fits,
      int[] index,
      float[] value,
      float[] pre,
      int[] count,
      int capacity,
      int overflow) {}

  private Encoder encoder(int kind, int d, int m, boolean centred, int k) {
    float[] threshold = random(m, 1);
    for (int i = 0; i < m; i++) threshold[i] = Math.abs(threshold[i]) * (float) Math.sqrt(d);
    return new Encoder(
        kind,
        d,
        m,
        random(m * d),
        random(m),
        centred ? random(d) : null,
        kind == JUMPRELU ? threshold : null,
        0,
        k);
  }

  private Encoded run(Encoder e, float[] x, byte[] keep, int capacity) {
    return run(ElementType.F32, e, x, keep, capacity);
  }

  private Encoded run(ElementType type, Encoder e, float[] x, byte[] keep, int capacity) {
    int tokens = x.length / e.d;
    MemorySegment index = buffers.ints(tokens * capacity);
    MemorySegment value = buffers.floats(tokens * capacity);
    MemorySegment pre = buffers.floats(tokens * capacity);
    MemorySegment count = buffers.ints(tokens);
    MemorySegment overflow = buffers.changing(0); // whose bits are those of the integer
    int scratch = Math.toIntExact(kernels.saeEncodeScratch(e.d, e.m));
    MemorySegment weights = buffers.input(type, e.w);
    MemorySegment bias = buffers.input(e.b);
    MemorySegment centre = e.bPre == null ? NULL : buffers.input(e.bPre);
    if (e.bPre != null && type == ElementType.BF16) {
      MemorySegment folded = buffers.floats(e.m);
      kernels(type).saeFoldBias(weights, bias, centre, folded, e.d, e.m);
      bias = folded;
      centre = NULL;
    }
    boolean fits =
        kernels(type)
            .saeEncode(
                buffers.input(type, x),
                weights,
                bias,
                centre,
                e.kind,
                e.threshold == null ? NULL : buffers.input(e.threshold),
                e.margin,
                e.k,
                keep == null ? NULL : buffers.input(keep),
                index,
                value,
                pre,
                count,
                capacity,
                overflow,
                buffers.floats(scratch),
                tokens,
                e.d,
                e.m);
    return new Encoded(
        fits,
        TestBuffers.toInts(index),
        TestBuffers.toFloats(value),
        TestBuffers.toFloats(pre),
        TestBuffers.toInts(count),
        capacity,
        TestBuffers.toInts(overflow)[0]);
  }

  @ParameterizedTest
  @CsvSource({
    "0, 1, 1, 1, 0, false",
    "0, 9, 33, 70, 0, true",
    "0, 70, 5, 333, 0, false",
    "1, 1, 1, 1, 0, true",
    "1, 9, 33, 70, 0, false",
    "1, 70, 65, 333, 0, true",
    "2, 1, 1, 1, 1, false",
    "2, 9, 33, 70, 70, true",
    "2, 70, 65, 333, 20, false",
    "2, 5, 40, 130, 1, true",
    "1, 0, 3, 5, 0, true",
    "3, 1, 1, 1, 1, false",
    "3, 9, 33, 70, 10, true",
    "3, 70, 65, 333, 333, false",
    "3, 5, 40, 130, 1, true",
    "3, 40, 20, 780, 6, false",
    "0, 5, 6, 20000, 0, true", // more latents than a product has
    "1, 5, 6, 20000, 0, true",
    "2, 5, 6, 20000, 77, true",
    "3, 5, 6, 20000, 2500, true",
    "3, 5, 6, 20000, 2, false", // of groups that are wider still
    "1, 11, 3, 66001, 0, true", // and than a slice has on a GPU
    "3, 5, 2, 70000, 3500, true",
    "3, 3, 2, 140000, 2, false"
  })
  void findsTheActiveLatents(int kind, int tokens, int d, int m, int k, boolean centred) {
    Encoder e = encoder(kind, d, m, centred, k);
    float[] x = random(tokens * d);
    byte[] keep = new byte[tokens];
    if (tokens > 3) keep[3] = 1;
    int capacity = kind == TOPK || kind == GROUPMAX ? k : m;
    Encoded result = run(e, x, tokens > 3 ? keep : null, capacity);

    for (int t = 0; t < tokens; t++) {
      if (keep[t] != 0) {
        assertEquals(0, result.count[t]);
        continue;
      }
      double[] z = new double[m];
      double[] bound = new double[m];
      preActivations(e, x, t, z, bound);
      double[] border = border(e, z);
      float[] found = new float[m];
      Arrays.fill(found, Float.NaN);
      int last = -1;
      for (int entry = t * capacity; entry < t * capacity + result.count[t]; entry++) {
        int i = result.index[entry];
        assertTrue(i > last, "indices ascend");
        last = i;
        found[i] = result.value[entry];
        assertEquals(result.pre[entry], result.value[entry]); // here active means positive
      }
      for (int i = 0; i < m; i++) {
        boolean active = !Float.isNaN(found[i]);
        if (active) assertEquals(z[i], found[i], bound[i], "z of latent " + i);
        if (active != z[i] > border[i]) {
          assertEquals(border[i], z[i], 2 * bound[i], "latent " + i + " is on the wrong side");
        }
      }
    }
  }

  /**
   * Sums of small whole numbers are exact: the fused kernel, the library's product in bfloat16
   * (where rows are not aligned) and float32 must agree in every bit, at thresholds, in ties, in
   * margins and where lists are too short.
   */
  @ParameterizedTest
  @CsvSource({
    "0, 5, 8, 3, 3, 0, true",
    "0, 140, 72, 300, 300, 0, true",
    "0, 140, 72, 300, 11, 0, false",
    "1, 1, 64, 128, 128, 0, true",
    "1, 130, 136, 257, 257, 1.5, true",
    "1, 130, 136, 257, 9, 2.5, false",
    "0, 9, 8, 9000, 9000, 0, true",
    "1, 300, 8, 9000, 5000, 1.5, true",
    "1, 5, 8, 66001, 40000, 1.5, true",
    "3, 9, 8, 9000, 900, 0, true",
    "1, 5, 1032, 300, 300, 1.5, true",
    "2, 20, 72, 300, 12, 0, true",
    "3, 20, 72, 300, 12, 0, true"
  })
  void everyWayIsTheSameOnWholeNumbers(
      int kind, int tokens, int d, int m, int capacity, float margin, boolean centred) {
    float[] threshold = wholeNumbers(m, 9);
    Encoder e =
        new Encoder(
            kind,
            d,
            m,
            wholeNumbers(m * d, 2),
            wholeNumbers(m, 5),
            centred ? wholeNumbers(d, 1) : null,
            kind == JUMPRELU ? threshold : null,
            margin,
            kind == TOPK || kind == GROUPMAX ? capacity : 0);
    float[] x = wholeNumbers(tokens * d, 3);
    byte[] keep = new byte[tokens];
    if (tokens > 4) {
      x[2 * d + 1] = Float.NaN;
      keep[3] = 1;
    }
    Encoded expected = run(e, x, keep, capacity);
    assertTrue(Arrays.stream(expected.count).sum() > tokens, "there is something to find");
    for (boolean aligned : new boolean[] {true, false}) {
      buffers.alignTo16(aligned);
      Encoded actual = run(ElementType.BF16, e, x, keep, capacity);
      assertArrayEquals(expected.count, actual.count);
      assertEquals(expected.overflow, actual.overflow);
      for (int t = 0; t < tokens; t++) {
        int from = t * capacity;
        int to = from + expected.count[t];
        assertArrayEquals(
            Arrays.copyOfRange(expected.index, from, to),
            Arrays.copyOfRange(actual.index, from, to));
        assertSameBits(
            Arrays.copyOfRange(expected.value, from, to),
            Arrays.copyOfRange(actual.value, from, to),
            "values of row " + t);
        assertSameBits(
            Arrays.copyOfRange(expected.pre, from, to),
            Arrays.copyOfRange(actual.pre, from, to),
            "z of row " + t);
      }
    }
  }

  /**
   * Of a slice of the latents there are the bits that there are of all: on the CPU, of the fused
   * kernel, and of the emulator's products.
   */
  @ParameterizedTest
  @CsvSource({"F32, 0", "F32, 1", "F32, 3", "BF16, 0", "BF16, 1"})
  void aSliceOfTheLatents(ElementType type, int kind) {
    assumeTrue(
        type == ElementType.BF16 || DeviceChoice.current().kind() != DeviceChoice.Kind.CUDA,
        "products of cuBLAS's own choice");
    buffers.alignTo16(true);
    int d = type == ElementType.BF16 ? 40 : 37;
    int group = 8;
    int panel = Math.toIntExact(kernels.saeEncodePanel(group));
    boolean onCpu = DeviceChoice.current().kind() == DeviceChoice.Kind.CPU;
    int m = onCpu ? 8192 + 808 : 2 * panel + panel / 2; // there of more than one product
    int k = kind == GROUPMAX ? m / group : 0;
    int tokens = 700;
    Encoder all = encoder(kind, d, m, true, k);
    float[] x = random(tokens * d);
    Encoded whole = run(type, all, x, null, m);
    for (int from : new int[] {panel, 2 * panel, m / panel * panel}) {
      float[] threshold = all.threshold == null ? null : Arrays.copyOfRange(all.threshold, from, m);
      Encoder part =
          new Encoder(
              kind,
              d,
              m - from,
              Arrays.copyOfRange(all.w, from * d, m * d),
              Arrays.copyOfRange(all.b, from, m),
              all.bPre,
              threshold,
              0,
              (int) ((long) k * (m - from) / m));
      Encoded slice = run(type, part, x, null, m - from);
      for (int t = 0; t < tokens; t++) {
        int at = t * m;
        int skipped = 0;
        while (skipped < whole.count[t] && whole.index[at + skipped] < from) {
          skipped++;
        }
        int entries = slice.count[t];
        assertEquals(whole.count[t] - skipped, entries);
        int sliceAt = t * (m - from);
        for (int j = 0; j < entries; j++) {
          assertEquals(whole.index[at + skipped + j], from + slice.index[sliceAt + j]);
          assertEquals(whole.value[at + skipped + j], slice.value[sliceAt + j], 0);
        }
      }
    }
  }

  /** From -largest to largest. */
  private float[] wholeNumbers(int count, int largest) {
    int[] numbers = randomInts(count, 2 * largest + 1);
    float[] values = new float[count];
    for (int i = 0; i < count; i++) values[i] = numbers[i] - largest;
    return values;
  }

  /**
   * In bfloat16 z is within twice the error of a plain computation that stores x - bPre, the
   * product and z in bfloat16, and no latent is on the wrong side of its border by more.
   */
  @ParameterizedTest
  @CsvSource({
    "0, 9, 40, 70, 0, true",
    "1, 70, 200, 333, 0, true",
    "1, 5, 1032, 40, 0, true",
    "2, 40, 65, 333, 20, true",
    "3, 40, 64, 780, 6, false"
  })
  void inBfloat16(int kind, int tokens, int d, int m, int k, boolean centred) {
    buffers.alignTo16(true);
    Encoder given = encoder(kind, d, m, centred, k);
    float[] weights = Bfloat16.decode(Bfloat16.encode(given.w));
    Encoder e =
        new Encoder(kind, d, m, weights, given.b, given.bPre, given.threshold, given.margin, k);
    float[] x = random(ElementType.BF16, tokens * d, 1);
    int capacity = kind == TOPK || kind == GROUPMAX ? k : m;
    Encoded result = run(ElementType.BF16, e, x, null, capacity);
    double plainError = 0;
    double ownError = 0;
    double wrongSide = 0;
    double scale = 0;
    for (int t = 0; t < tokens; t++) {
      double[] z = new double[m];
      preActivations(e, x, t, z, new double[m]);
      double[] border = border(e, z);
      boolean[] found = new boolean[m];
      for (int entry = t * capacity; entry < t * capacity + result.count[t]; entry++) {
        int i = result.index[entry];
        found[i] = true;
        plainError = Math.max(plainError, Math.abs(plain(e, x, t, i) - z[i]));
        ownError = Math.max(ownError, Math.abs(result.value[entry] - z[i]));
      }
      for (int i = 0; i < m; i++) {
        scale = Math.max(scale, Math.abs(z[i]));
        if (found[i] != z[i] > border[i]) {
          wrongSide = Math.max(wrongSide, Math.abs(z[i] - border[i]));
        }
      }
    }
    double bound = FORWARD * plainError + 1e-5 * scale;
    assertTrue(plainError > 0, "nothing was found");
    assertTrue(ownError <= bound, "error " + ownError + ", of a plain computation " + plainError);
    assertTrue(wrongSide <= bound, "on the wrong side by " + wrongSide);
  }

  /** x - bPre would be rounded once more than a bias that makes up for bPre. */
  @Test
  void nothingIsSubtractedInBfloat16() {
    int d = 8;
    MemorySegment scratch = buffers.floats(Math.toIntExact(kernels.saeEncodeScratch(d, 5)));
    NativeException refused =
        assertThrows(
            NativeException.class,
            () ->
                kernels(ElementType.BF16)
                    .saeEncode(
                        buffers.input(ElementType.BF16, random(d)),
                        buffers.input(ElementType.BF16, random(5 * d)),
                        buffers.input(random(5)),
                        buffers.input(random(d)),
                        RELU,
                        NULL,
                        0,
                        0,
                        NULL,
                        buffers.ints(5),
                        buffers.floats(5),
                        NULL,
                        buffers.ints(1),
                        5,
                        NULL,
                        scratch,
                        1,
                        d,
                        5));
    assertTrue(refused.getMessage().contains("esp_sae_fold_bias"), refused.getMessage());
  }

  @ParameterizedTest
  @CsvSource({"F32, 1, 1", "F32, 40, 333", "BF16, 40, 333", "F32, 67, 50", "BF16, 67, 50"})
  void foldsTheBias(ElementType type, int d, int m) {
    buffers.alignTo16(d % 8 == 0);
    float[] w = random(type, m * d, 1);
    float[] b = random(m);
    float[] bPre = random(d);
    MemorySegment weights = buffers.input(type, w);
    MemorySegment bias = buffers.changing(b);
    MemorySegment centre = buffers.input(bPre);
    kernels(type).saeFoldBias(weights, bias, centre, bias, d, m);
    double[] expected = new double[m];
    double[] bound = new double[m];
    for (int i = 0; i < m; i++) {
      expected[i] = b[i];
      for (int c = 0; c < d; c++) {
        expected[i] -= (double) w[i * d + c] * bPre[c];
      }
      bound[i] = EPS * Math.abs(expected[i]) + 1e-14 * d; // one rounding, and those of float64
    }
    assertNear("folded", expected, TestBuffers.toFloats(bias), bound);
  }

  private static double plain(Encoder e, float[] x, int t, int i) {
    double sum = 0;
    for (int c = 0; c < e.d; c++) {
      double input = x[t * e.d + c] - (e.bPre == null ? 0 : Bfloat16.round(e.bPre[c]));
      sum += Bfloat16.round(input) * e.w[i * e.d + c];
    }
    return Bfloat16.round(Bfloat16.round(sum) + Bfloat16.round(e.b[i]));
  }

  private static void preActivations(Encoder e, float[] x, int t, double[] z, double[] bound) {
    for (int i = 0; i < e.m; i++) {
      double size = 0;
      for (int c = 0; c < e.d; c++) {
        double term =
            ((double) x[t * e.d + c] - (e.bPre == null ? 0 : e.bPre[c])) * e.w[i * e.d + c];
        z[i] += term;
        size += Math.abs(term);
      }
      z[i] += e.b[i];
      bound[i] = EPS * (Math.sqrt(e.d) + 2) * (size + Math.abs(e.b[i]));
    }
  }

  /** An active latent is above its border. */
  private static double[] border(Encoder e, double[] z) {
    double[] border = new double[e.m];
    if (e.kind == JUMPRELU) return doubles(e.threshold);
    if (e.kind == RELU || e.k == e.m) return border;
    if (e.kind == GROUPMAX) {
      int size = e.m / e.k;
      for (int group = 0; group < e.m; group += size) {
        int largest = group;
        double second = 0;
        for (int i = group; i < group + size; i++) {
          if (z[i] > z[largest]) largest = i;
        }
        for (int i = group; i < group + size; i++) {
          if (i != largest) second = Math.max(second, z[i]);
        }
        Arrays.fill(border, group, group + size, Math.max(0, z[largest]));
        border[largest] = second;
      }
      return border;
    }
    double[] sorted = z.clone();
    Arrays.sort(sorted);
    Arrays.fill(border, Math.max(0, sorted[e.m - e.k - 1]));
    return border;
  }

  /** A row of x selects a row of whole numbers: nothing is rounded, and ties are ties. */
  private Encoder exact(int kind, float[] z, float[] threshold, float margin, int k) {
    return new Encoder(kind, 1, z.length, z, new float[z.length], null, threshold, margin, k);
  }

  private static void assertRow(Encoded e, int row, int[] index, float[] value) {
    assertEquals(index.length, e.count[row], "count");
    int from = row * e.capacity;
    assertArrayEquals(index, Arrays.copyOfRange(e.index, from, from + index.length));
    assertArrayEquals(value, Arrays.copyOfRange(e.value, from, from + index.length));
  }

  @Test
  void tiesGoToTheLowerIndex() {
    float[] z = {1, 3, 2, 3, 2, 3, 2, 5, 2, 1};
    Encoded four = run(exact(TOPK, z, null, 0, 4), new float[] {1}, null, 4);
    assertRow(four, 0, new int[] {1, 3, 5, 7}, new float[] {3, 3, 3, 5});
    Encoded six = run(exact(TOPK, z, null, 0, 6), new float[] {1}, null, 6);
    assertRow(six, 0, new int[] {1, 2, 3, 4, 5, 7}, new float[] {3, 2, 3, 2, 3, 5});
    float[] equal = new float[200];
    Arrays.fill(equal, 1);
    Encoded first = run(exact(TOPK, equal, null, 0, 3), new float[] {1}, null, 5);
    assertRow(first, 0, new int[] {0, 1, 2}, new float[] {1, 1, 1});
  }

  /** With ties at the border, and with fewer positive ones than k; in one product, and in three. */
  @ParameterizedTest
  @CsvSource({
    "1, 3000",
    "5, 3000",
    "100, 3000",
    "128, 3000",
    "129, 3000",
    "2000, 3000",
    "40, 20000",
    "300, 20000",
    "2000, 20000"
  })
  void theLargestOfMany(int k, int m) {
    float[] z = wholeNumbers(m, 9);
    float[] x = {1, -1};
    Encoded e = run(exact(TOPK, z, null, 0, k), x, null, k);
    for (int row = 0; row < x.length; row++) {
      float sign = x[row];
      int[] index =
          IntStream.range(0, m)
              .filter(i -> sign * z[i] > 0)
              .boxed()
              .sorted(Comparator.comparingDouble(i -> -sign * z[i]))
              .limit(k)
              .mapToInt(i -> i)
              .sorted()
              .toArray();
      float[] value = new float[index.length];
      for (int j = 0; j < index.length; j++) value[j] = sign * z[index[j]];
      assertRow(e, row, index, value);
    }
  }

  @Test
  void groupsGiveTheirLargest() {
    float[] z = {1, 3, 3, /**/ -1, -2, 0, /**/ 2, 1, 2, /**/ -5, -4, 1};
    Encoded e = run(exact(GROUPMAX, z, null, 0, 4), new float[] {1, -1}, null, 4);
    assertRow(e, 0, new int[] {1, 6, 11}, new float[] {3, 2, 1});
    assertRow(e, 1, new int[] {4, 9}, new float[] {2, 5});
  }

  @Test
  void fewerPositiveThanK() {
    float[] z = {-1, 0, 2, -3, 1};
    Encoded e = run(exact(TOPK, z, null, 0, 4), new float[] {1, -1, 0}, null, 4);
    assertRow(e, 0, new int[] {2, 4}, new float[] {2, 1});
    assertRow(e, 1, new int[] {0, 3}, new float[] {1, 3});
    assertRow(e, 2, new int[] {}, new float[] {});
  }

  @Test
  void atTheThresholdIsNotAbove() {
    float[] z = {1, 2, 3, -1, -2};
    float[] threshold = {1, 1, 1, -2, -2};
    Encoded e = run(exact(JUMPRELU, z, threshold, 0, 0), new float[] {1}, null, 5);
    assertRow(e, 0, new int[] {1, 2, 3}, new float[] {2, 3, 0}); // relu of what is above
    assertEquals(-1, e.pre[2]);
  }

  @Test
  void aMarginBringsTheNeighboursOfThresholds() {
    float[] z = {0.5f, 0.8f, 1, 1.25f, 1.5f, 3};
    float[] threshold = {1, 1, 1, 1, 1, 1};
    Encoder e = exact(JUMPRELU, z, threshold, 0.5f, 0);
    Encoded wide = run(e, new float[] {1}, null, 6);
    assertRow(wide, 0, new int[] {1, 2, 3, 4, 5}, new float[] {0, 0, 1.25f, 1.5f, 3});
    assertArrayEquals(
        new float[] {0.8f, 1, 1.25f, 1.5f, 3}, Arrays.copyOf(wide.pre, 5), "z of neighbours");
    Encoded none = run(e.withMargin(0), new float[] {1}, null, 6);
    assertRow(none, 0, new int[] {3, 4, 5}, new float[] {1.25f, 1.5f, 3});
  }

  @Test
  void saysHowLongListsMustBe() {
    float[] z = {1, 2, 3, -1, 4};
    for (Encoder e :
        new Encoder[] {
          exact(RELU, z, null, 0, 0),
          exact(JUMPRELU, z, new float[5], 0, 0),
          exact(TOPK, z, null, 0, 5),
          exact(GROUPMAX, z, null, 0, 5)
        }) {
      Encoded fits = run(e, new float[] {1}, null, 4);
      assertTrue(fits.fits);
      assertEquals(0, fits.overflow);
      assertRow(fits, 0, new int[] {0, 1, 2, 4}, new float[] {1, 2, 3, 4});
      Encoded tooShort = run(e, new float[] {-1, 1}, null, 3);
      if (kernelsAreCuda()) { // the first three are kept
        assertTrue(tooShort.fits);
        assertRow(tooShort, 1, new int[] {0, 1, 2}, new float[] {1, 2, 3});
        assertEquals(4, tooShort.overflow);
      } else {
        assertFalse(tooShort.fits);
        assertArrayEquals(new int[] {1, 4}, tooShort.count);
      }
    }
  }

  @Test
  void notANumberStaysNotANumber() {
    Encoder e = encoder(TOPK, 7, 90, true, 5);
    float[] x = random(3 * 7);
    x[10] = Float.NaN;
    Encoded result = run(e, x, null, 5);
    assertEquals(1, result.count[1]);
    assertEquals(0, result.index[5]);
    assertTrue(Float.isNaN(result.value[5]));
    assertEquals(5, result.count[0]);
    assertEquals(5, result.count[2]);
  }

  /** Latents are encoded in several slices. */
  @ParameterizedTest
  @CsvSource({"0, 5", "0, 69000", "1, 5", "1, 69000", "2, 5", "2, 69000", "3, 5", "3, 69000"})
  void notANumberInOneSlice(int kind, int latent) {
    float[] z = random(70_000);
    z[latent] = Float.NaN;
    boolean counted = kind == TOPK || kind == GROUPMAX;
    float[] threshold = kind == JUMPRELU ? new float[z.length] : null;
    Encoder e = exact(kind, z, threshold, 0, counted ? 7000 : 0);
    Encoded result = run(e, new float[] {1, 2}, new byte[] {0, 1}, 7000);
    assertEquals(1, result.count[0]);
    assertEquals(0, result.index[0]);
    assertTrue(Float.isNaN(result.value[0]));
    assertEquals(0, result.count[1]);
  }

  /** More rows than are encoded at a time. */
  @Test
  void rowsDoNotDependOnTheirChunk() {
    int m = 66_001;
    Encoder e = encoder(TOPK, 2, m, true, 7);
    float[] x = random(600 * 2);
    Encoded all = run(e, x, null, 7);
    for (int t : new int[] {0, 63, 64, 255, 256, 511, 512, 599}) {
      double[] z = new double[m];
      preActivations(e, x, t, z, new double[m]);
      double[] sorted = z.clone();
      Arrays.sort(sorted);
      assertEquals(7, all.count[t]);
      for (int j = 0; j < 7; j++) {
        assertTrue(z[all.index[t * 7 + j]] >= sorted[m - 7] - 1e-5, "row " + t);
      }
    }
  }

  @Test
  void isTheSameForAnyThreads() {
    Encoder e = encoder(JUMPRELU, 60, 700, true, 0);
    float[] x = random(150 * 60);
    assertSameForAnyThreads(
        () -> {
          Encoded r = run(e, x, null, 700);
          float[] out = new float[150 + 2 * 150 * 700];
          for (int t = 0; t < 150; t++) {
            out[t] = r.count[t];
            for (int j = 0; j < r.count[t]; j++) {
              out[150 + t * 700 + j] = r.index[t * 700 + j];
              out[150 + (150 + t) * 700 + j] = r.value[t * 700 + j];
            }
          }
          return out;
        });
  }

  @ParameterizedTest
  @CsvSource({
    "1, false, 0",
    "0, true, 0",
    "2, false, 0",
    "2, false, 6",
    "4, false, 1",
    "3, false, 2",
    "3, true, 5"
  })
  void refusesAContradiction(int kind, boolean withThreshold, int k) {
    float[] threshold = withThreshold ? new float[5] : null;
    assertThrows(
        NativeException.class,
        () -> run(exact(kind, new float[5], threshold, 0, k), new float[1], null, 5));
  }
}
