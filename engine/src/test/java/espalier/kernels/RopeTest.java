package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RopeTest extends KernelTest {

  private static float[] table(int seqLen, int half, boolean sine) {
    float[] out = new float[seqLen * half];
    for (int i = 0; i < out.length; i++) {
      double angle = (i / half) * Math.pow(10_000, -(double) (i % half) / half);
      out[i] = (float) (sine ? Math.sin(angle) : Math.cos(angle));
    }
    return out;
  }

  private static double[] rotate(
      double[] x,
      int ld,
      float[] cos,
      float[] sin,
      int sign,
      int seqLen,
      int heads,
      int headDim,
      int rotary) {
    double[] out = x.clone();
    int half = rotary / 2;
    for (int t = 0; t < x.length / ld; t++) {
      for (int h = 0; h < heads; h++) {
        for (int i = 0; i < half; i++) {
          int a = t * ld + h * headDim + i;
          double c = cos[t % seqLen * half + i];
          double s = sign * (double) sin[t % seqLen * half + i];
          out[a] = x[a] * c - x[a + half] * s;
          out[a + half] = x[a + half] * c + x[a] * s;
        }
      }
    }
    return out;
  }

  @ParameterizedTest
  @CsvSource({
    "1, 1, 2, 2, 1, 0",
    "12, 4, 6, 6, 3, 0",
    "21, 7, 10, 4, 2, 5",
    "130, 65, 64, 64, 9, 64",
    "0, 4, 2, 2, 1, 0"
  })
  void turnsPairs(int tokens, int seqLen, int headDim, int rotary, int heads, int extra) {
    int ld = heads * headDim + extra;
    int half = rotary / 2;
    float[] x = random(tokens * ld);
    float[] cos = table(seqLen, half, false);
    float[] sin = table(seqLen, half, true);
    for (int sign : new int[] {1, -1}) {
      MemorySegment out = buffers.changing(x);
      kernels.rope(
          out,
          ld,
          buffers.input(cos),
          buffers.input(sin),
          sign,
          tokens,
          seqLen,
          heads,
          headDim,
          rotary);
      double[] expected = rotate(doubles(x), ld, cos, sin, sign, seqLen, heads, headDim, rotary);
      // Two products and a sum; |cos|, |sin| <= 1. What is not turned must not change at all.
      assertNear(
          "x",
          expected,
          out,
          i -> {
            int c = i % ld % headDim;
            if (i % ld >= heads * headDim || c >= rotary) return 0;
            int partner = c < half ? i + half : i - half;
            return 2 * EPS * (Math.abs(x[i]) + Math.abs(x[partner]));
          });
    }
  }

  /** A turn's gradient is the turn back. */
  @Test
  void theReferenceIsTheGradient() {
    float[] cos = table(3, 2, false);
    float[] sin = table(3, 2, true);
    double[] x = doubles(random(6 * 5));
    double[] dOut = doubles(random(6 * 5));
    double[] gradient = rotate(dOut, 5, cos, sin, -1, 3, 1, 4, 4);
    assertGradient(v -> dot(rotate(v, 5, cos, sin, 1, 3, 1, 4, 4), dOut), x, gradient);
  }

  @Test
  void positionZeroDoesNotTurn() {
    float[] x = random(64);
    MemorySegment out = buffers.changing(x);
    kernels.rope(
        out,
        64,
        buffers.input(table(1, 32, false)),
        buffers.input(table(1, 32, true)),
        1,
        1,
        8,
        1,
        64,
        64);
    float[] actual = TestBuffers.toFloats(out);
    for (int i = 0; i < 64; i++) assertEquals(x[i], actual[i]);
  }

  @Test
  void isTheSameForAnyThreads() {
    float[] x = random(2100 * 130);
    MemorySegment cos = buffers.input(table(256, 32, false));
    MemorySegment sin = buffers.input(table(256, 32, true));
    assertSameForAnyThreads(
        () -> {
          MemorySegment out = buffers.changing(x);
          kernels.rope(out, 130, cos, sin, 1, 2100, 256, 2, 64, 64);
          return TestBuffers.toFloats(out);
        });
  }
}
