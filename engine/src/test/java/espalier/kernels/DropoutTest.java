package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class DropoutTest extends KernelTest {

  private static final int N = 300_007;

  private float[] drop(float[] x, float p, long seed, long stream) {
    MemorySegment out = buffers.floats(x.length);
    kernels.dropout(buffers.input(x), out, x.length, p, buffers.input(seed), stream, false);
    return TestBuffers.toFloats(out);
  }

  @ParameterizedTest
  @ValueSource(floats = {0.1f, 0.5f, 0.9f})
  void keepsTheRightShareAndScalesIt(float p) {
    float[] x = random(N);
    float[] out = drop(x, p, 1, 2);
    int kept = 0;
    for (int i = 0; i < N; i++) {
      if (out[i] == 0) continue;
      kept++;
      double expected = x[i] / (1 - (double) p);
      assertEquals(expected, out[i], 2 * EPS * Math.abs(expected));
    }
    // Binomial: 5 standard deviations are missed once in two million runs, and this run is always
    // the same.
    double deviation = Math.sqrt(N * (double) p * (1 - p));
    assertEquals(N * (1 - (double) p), kept, 5 * deviation);
  }

  @Test
  void neighboursAreIndependent() {
    float[] out = drop(ones(), 0.5f, 3, 4);
    for (int distance : new int[] {1, 2, 8, 16, 64, 576}) {
      int both = 0;
      for (int i = distance; i < N; i++) if (out[i] != 0 && out[i - distance] != 0) both++;
      assertEquals(0.25 * N, both, 5 * Math.sqrt(N * 0.25 * 0.75), "distance " + distance);
    }
  }

  @Test
  void seedsAndStreamsDrawTheirOwn() {
    float[] base = drop(ones(), 0.5f, 3, 4);
    for (float[] other :
        new float[][] {
          drop(ones(), 0.5f, 4, 4), drop(ones(), 0.5f, 3, 5), drop(ones(), 0.5f, 4, 3)
        }) {
      int same = 0;
      for (int i = 0; i < N; i++) if ((base[i] == 0) == (other[i] == 0)) same++;
      assertEquals(0.5 * N, same, 5 * Math.sqrt(N * 0.25));
    }
    assertArrayEquals(base, drop(ones(), 0.5f, 3, 4));
  }

  /**
   * A row's elements are the same however many follow: a gradient of part of a batch meets its own
   * mask.
   */
  @Test
  void anElementDependsOnItsPlaceAlone() {
    float[] x = ones();
    float[] all = drop(x, 0.3f, 5, 6);
    assertArrayEquals(Arrays.copyOf(all, 1000), drop(Arrays.copyOf(x, 1000), 0.3f, 5, 6));
  }

  @Test
  void theGradientMeetsTheSameMask() {
    float[] forward = drop(ones(), 0.1f, 7, 8);
    float[] gradient = random(N);
    MemorySegment inPlace = buffers.changing(gradient);
    kernels.dropout(inPlace, inPlace, N, 0.1f, buffers.input(7L), 8, false);
    float[] backward = TestBuffers.toFloats(inPlace);
    for (int i = 0; i < N; i++) assertEquals(forward[i] == 0, backward[i] == 0);
    assertTrue(Arrays.equals(backward, drop(gradient, 0.1f, 7, 8)));
  }

  @Test
  void rowsMayLieApart() {
    float[] x = random(20 * 24);
    for (int ldx : new int[] {27, 32}) {
      MemorySegment out = buffers.floats(20 * 24);
      MemorySegment apart = buffers.input(widen(x, 24, ldx));
      kernels.dropout(apart, ldx, out, 20, 24, 0.4f, buffers.input(11L), 3, false);
      assertArrayEquals(drop(x, 0.4f, 11, 3), TestBuffers.toFloats(out));
    }
  }

  @Test
  void addsWhereAsked() {
    float[] x = random(N);
    float[] before = random(N);
    MemorySegment out = buffers.changing(before);
    kernels.dropout(buffers.input(x), out, N, 0.2f, buffers.input(9L), 1, true);
    float[] alone = drop(x, 0.2f, 9, 1);
    double[] expected = new double[N];
    for (int i = 0; i < N; i++) expected[i] = (double) before[i] + alone[i];
    // The product may or may not be rounded before the sum.
    assertNear(
        "sum", expected, out, i -> EPS * (Math.abs(before[i]) + 2 * (double) Math.abs(alone[i])));
  }

  @Test
  void dropsNothingAtZero() {
    float[] x = random(N);
    assertArrayEquals(x, drop(x, 0, 1, 1));
  }

  @Test
  void isTheSameForAnyThreads() {
    float[] x = random(N);
    assertSameForAnyThreads(() -> drop(x, 0.5f, 1, 1));
  }

  private static float[] ones() {
    float[] x = new float[N];
    Arrays.fill(x, 1);
    return x;
  }
}
