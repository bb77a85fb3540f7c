package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.device.ElementType;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class FillUniformTest extends KernelTest {

  private static final long STEP = 0x9e3779b97f4a7c15L;

  private float[] fill(ElementType type, float bound, long seed, int n) {
    Kernels kernels = kernels(type);
    MemorySegment out = buffers.output(type, n);
    kernels.fillUniform(out, bound, seed, n);
    return TestBuffers.toFloats(type, out);
  }

  private static long mix(long z) {
    z = (z ^ z >>> 30) * 0xbf58476d1ce4e5b9L;
    z = (z ^ z >>> 27) * 0x94d049bb133111ebL;
    return z ^ z >>> 31;
  }

  /** The contract's formula in integers, rounded once: the same bits on every device. */
  @ParameterizedTest
  @EnumSource(ElementType.class)
  void everyElementIsTheFormulas(ElementType type) {
    float bound = 0.037f;
    long start = mix(11 + STEP);
    for (int n : new int[] {0, 1, 15, 17, 4097, 70_001}) {
      float[] expected = new float[n];
      for (int i = 0; i < n; i++) {
        int bits = (int) (mix(start + i * STEP) >>> 40);
        expected[i] = (2 * bits + 1 - (1 << 24)) * (bound * 0x1p-24f);
      }
      if (type == ElementType.BF16) expected = Bfloat16.decode(Bfloat16.encode(expected));
      assertSameBits(expected, fill(type, bound, 11, n), type + ", " + n);
    }
  }

  @ParameterizedTest
  @EnumSource(ElementType.class)
  void fillsTheRangeEvenly(ElementType type) {
    int n = 300_007;
    float[] x = fill(type, 2, 5, n);
    double sum = 0;
    double squares = 0;
    for (float value : x) {
      assertTrue(Math.abs(value) <= 2, "" + value);
      sum += value;
      squares += (double) value * value;
    }
    // 5 standard deviations of a mean: 2 / sqrt(3 n), and of a mean square: 4 * sqrt(4 / 45 / n).
    assertEquals(0, sum / n, 5 * 2 / Math.sqrt(3.0 * n));
    assertEquals(4 / 3.0, squares / n, 5 * 4 * Math.sqrt(4 / 45.0 / n));
  }

  @Test
  void neighboursAndSeedsAreIndependent() {
    int n = 300_007;
    float[] x = fill(ElementType.F32, 1, 3, n);
    float[] other = fill(ElementType.F32, 1, 4, n);
    double neighbours = 0;
    double seeds = 0;
    for (int i = 1; i < n; i++) {
      neighbours += (double) x[i] * x[i - 1];
      seeds += (double) x[i] * other[i];
    }
    assertEquals(0, neighbours / n, 5 / 3.0 / Math.sqrt(n));
    assertEquals(0, seeds / n, 5 / 3.0 / Math.sqrt(n));
  }

  @Test
  void isTheSameForAnyThreads() {
    assertSameForAnyThreads(() -> fill(ElementType.F32, 1, 1, 70_001));
  }

  /** What lies between rows is left alone. */
  @ParameterizedTest
  @EnumSource(ElementType.class)
  void rowsMayLieApart(ElementType type) {
    float[] expected = fill(type, 1, 3, 7 * 16);
    for (int ldx : new int[] {19, 24}) {
      MemorySegment out = buffers.output(type, 7 * ldx);
      kernels(type).fillUniform(out, ldx, 1, 3, 7, 16);
      assertSameBits(
          expected, TestBuffers.toFloats(type, narrow(type, out, 16, ldx)), "rows apart");
    }
  }
}
