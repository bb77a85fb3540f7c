package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import espalier.bindings.NativeException;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SaeDecodeTest extends KernelTest {

  private final Random random = new Random(7);

  /** Sum over the entries of factor * table[index], and the sizes of its terms. */
  private static void gather(
      Lists lists, float[] factor, float[] table, int d, double[] out, double[] sizes) {
    lists.forEach(
        (t, entry, latent) -> {
          for (int c = 0; c < d; c++) {
            double term = (double) factor[entry] * table[latent * d + c];
            out[t * d + c] += term;
            sizes[t * d + c] += Math.abs(term);
          }
        });
  }

  @ParameterizedTest
  @CsvSource({"1, 5, 3, 1", "7, 40, 5, 33", "40, 200, 9, 65", "3, 64, 64, 16"})
  void decode(int tokens, int m, int capacity, int d) {
    Lists lists = Lists.random(random, tokens, m, capacity);
    float[] wDec = random(m * d);
    float[] bDec = random(d);
    float[] x = random(tokens * d);
    byte[] keep = new byte[tokens];
    keep[tokens / 2] = 1;
    for (boolean keeping : new boolean[] {false, true}) {
      MemorySegment out = buffers.floats(tokens * d);
      kernels.saeDecode(
          buffers.input(lists.index()),
          buffers.input(lists.value()),
          buffers.input(lists.count()),
          capacity,
          buffers.input(wDec),
          buffers.input(bDec),
          keeping ? buffers.input(keep) : NULL,
          keeping ? buffers.input(x) : NULL,
          out,
          tokens,
          d);
      double[] expected = new double[tokens * d];
      double[] sizes = new double[tokens * d];
      gather(lists, lists.value(), wDec, d, expected, sizes);
      for (int i = 0; i < tokens * d; i++) {
        boolean kept = keeping && keep[i / d] != 0;
        expected[i] = kept ? x[i] : expected[i] + bDec[i % d];
        sizes[i] = kept ? 0 : sizes[i] + Math.abs(bDec[i % d]);
      }
      assertNear("out", expected, out, i -> EPS * (Math.sqrt(capacity) + 1) * sizes[i]);
    }
  }

  @ParameterizedTest
  @CsvSource({"1, 5, 3, 1", "7, 40, 5, 33", "40, 200, 9, 65"})
  void decodeBackward(int tokens, int m, int capacity, int d) {
    Lists lists = Lists.random(random, tokens, m, capacity);
    float[] wDec = random(m * d);
    float[] dOut = random(tokens * d);
    MemorySegment dValue = buffers.floats(tokens * capacity);
    kernels.saeDecodeBackward(
        buffers.input(dOut),
        buffers.input(lists.index()),
        buffers.input(lists.count()),
        capacity,
        buffers.input(wDec),
        dValue,
        tokens,
        d);
    double[] expected = new double[tokens * capacity];
    double[] sizes = new double[tokens * capacity];
    Arrays.fill(expected, Double.NaN);
    lists.forEach(
        (t, entry, latent) -> {
          expected[entry] = 0;
          for (int c = 0; c < d; c++) {
            double term = (double) dOut[t * d + c] * wDec[latent * d + c];
            expected[entry] += term;
            sizes[entry] += Math.abs(term);
          }
        });
    float[] actual = TestBuffers.toFloats(dValue);
    for (int i = 0; i < actual.length; i++) { // what is no entry is not written
      if (Double.isNaN(expected[i]) && Float.isNaN(actual[i])) {
        expected[i] = 0;
        actual[i] = 0;
      }
    }
    assertNear("d_value", expected, actual, i -> EPS * (Math.sqrt(d) + 1) * sizes[i]);
  }

  @ParameterizedTest
  @CsvSource({"1, 5, 3, 1", "7, 40, 5, 33", "40, 200, 9, 65"})
  void encodeBackward(int tokens, int m, int capacity, int d) {
    Lists lists = Lists.random(random, tokens, m, capacity);
    float[] wEnc = random(m * d);
    float[] dOut = random(tokens * d);
    float[] before = random(tokens * d);
    byte[] keep = new byte[tokens];
    keep[tokens / 2] = 1;
    int[] count = lists.count().clone();
    count[tokens / 2] = 0;
    Lists kept = new Lists(tokens, m, capacity, lists.index(), lists.value(), count);
    for (int variant = 0; variant < 4; variant++) {
      boolean accumulate = (variant & 1) != 0;
      boolean keeping = (variant & 2) != 0;
      MemorySegment dX = accumulate ? buffers.changing(before) : buffers.floats(tokens * d);
      kernels.saeEncodeBackward(
          buffers.input(kept.value()),
          buffers.input(kept.index()),
          buffers.input(kept.count()),
          capacity,
          buffers.input(wEnc),
          keeping ? buffers.input(keep) : NULL,
          keeping ? buffers.input(dOut) : NULL,
          dX,
          accumulate,
          tokens,
          d);
      double[] expected = new double[tokens * d];
      double[] sizes = new double[tokens * d];
      gather(kept, kept.value(), wEnc, d, expected, sizes);
      for (int i = 0; i < tokens * d; i++) {
        if (keeping && keep[i / d] != 0) {
          expected[i] = dOut[i];
          sizes[i] = accumulate ? Math.abs(dOut[i]) : 0;
        }
        if (accumulate) {
          expected[i] += before[i];
          sizes[i] += Math.abs(before[i]);
        }
      }
      assertNear("d_x", expected, dX, i -> EPS * (Math.sqrt(capacity) + 1) * sizes[i]);
    }
  }

  @Test
  void isTheSameForAnyThreads() {
    int tokens = 200;
    int d = 96;
    Lists lists = Lists.random(random, tokens, 300, 20);
    MemorySegment index = buffers.input(lists.index());
    MemorySegment value = buffers.input(lists.value());
    MemorySegment count = buffers.input(lists.count());
    MemorySegment weights = buffers.input(random(300 * d));
    MemorySegment bias = buffers.input(random(d));
    MemorySegment dOut = buffers.input(random(tokens * d));
    MemorySegment out = buffers.floats(tokens * d);
    MemorySegment dX = buffers.floats(tokens * d);
    MemorySegment dValue = buffers.changing(new float[tokens * 20]);
    assertSameForAnyThreads(
        () -> {
          kernels.saeDecode(index, value, count, 20, weights, bias, NULL, NULL, out, tokens, d);
          kernels.saeDecodeBackward(dOut, index, count, 20, weights, dValue, tokens, d);
          kernels.saeEncodeBackward(
              value, index, count, 20, weights, NULL, NULL, dX, false, tokens, d);
          return concat(out, dX, dValue);
        });
  }

  @Test
  void refusesACountBeyondTheCapacity() {
    assumeFalse(kernelsAreCuda());
    MemorySegment x = buffers.floats(8);
    NativeException e =
        assertThrows(
            NativeException.class,
            () ->
                kernels.saeDecode(
                    buffers.input(0, 0, 0, 0),
                    x,
                    buffers.input(1, 3),
                    2,
                    x,
                    x,
                    NULL,
                    NULL,
                    x,
                    2,
                    2));
    assertTrue(e.getMessage().contains("count[1] = 3"), e.getMessage());
  }
}
