package espalier.kernels;

import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class HeadNormTest extends KernelTest {

  private record Shape(int tokens, int heads, int kvHeads, int headDim, double offset) {
    int cols() {
      return (heads + 2 * kvHeads) * headDim;
    }

    int size() {
      return tokens * cols();
    }

    int normed() {
      return heads + kvHeads;
    }

    /** The head that an element belongs to. */
    int head(int i) {
      return i % cols() / headDim;
    }

    double gain(int i, double[] query, double[] key) {
      return offset + (head(i) < heads ? query : key)[i % headDim];
    }
  }

  private static final double RMS_EPS = 1e-6f;

  private static double rstd(Shape s, double[] x, int i) {
    double squares = 0;
    int first = i / s.headDim * s.headDim;
    for (int c = 0; c < s.headDim; c++) squares += x[first + c] * x[first + c];
    return 1 / Math.sqrt(squares / s.headDim + RMS_EPS);
  }

  private static double[] forward(Shape s, double[] x, double[] query, double[] key) {
    double[] out = x.clone();
    for (int i = 0; i < s.size(); i++) {
      if (s.head(i) < s.normed()) out[i] = x[i] * rstd(s, x, i) * s.gain(i, query, key);
    }
    return out;
  }

  /** Gradients; sizes bound what was added up for dX. */
  private record Gradient(double[] dX, double[] sizes, double[] dQuery, double[] dKey) {}

  private static Gradient backward(
      Shape s, double[] x, double[] query, double[] key, double[] dOut) {
    Gradient g =
        new Gradient(
            dOut.clone(), new double[s.size()], new double[s.headDim], new double[s.headDim]);
    for (int i = 0; i < s.size(); i++) {
      if (s.head(i) >= s.normed()) continue;
      double rstd = rstd(s, x, i);
      int first = i / s.headDim * s.headDim;
      double mean = 0;
      double sizes = 0;
      for (int j = first; j < first + s.headDim; j++) {
        double term = dOut[j] * s.gain(j, query, key) * x[j] * rstd / s.headDim;
        mean += term;
        sizes += Math.abs(term);
      }
      double direct = dOut[i] * s.gain(i, query, key);
      g.dX[i] = rstd * (direct - x[i] * rstd * mean);
      g.sizes[i] = rstd * (Math.abs(direct) + Math.abs(x[i] * rstd) * sizes);
      (s.head(i) < s.heads ? g.dQuery : g.dKey)[i % s.headDim] += dOut[i] * x[i] * rstd;
    }
    return g;
  }

  @ParameterizedTest
  @CsvSource({"1, 1, 1, 2, 0", "5, 4, 2, 24, 1", "33, 6, 1, 65, 0", "0, 2, 1, 4, 1"})
  void forwardAndBackward(int tokens, int heads, int kvHeads, int headDim, double offset) {
    Shape s = new Shape(tokens, heads, kvHeads, headDim, offset);
    float[] x = random(s.size(), 2);
    float[] query = random(headDim, 0.3);
    float[] key = random(headDim, 0.3);
    MemorySegment out = buffers.floats(s.size());
    MemorySegment rstd = buffers.floats(tokens * s.normed());
    kernels.headNormForward(
        buffers.input(x),
        buffers.input(query),
        buffers.input(key),
        (float) offset,
        (float) RMS_EPS,
        out,
        rstd,
        tokens,
        heads,
        kvHeads,
        headDim);
    double[] expected = forward(s, doubles(x), doubles(query), doubles(key));
    double[] gains = doubles(query);
    assertNear(
        "out",
        expected,
        out,
        i ->
            s.head(i) >= s.normed()
                ? 0
                : 4
                    * EPS
                    * Math.abs(x[i] * rstd(s, doubles(x), i))
                    * (offset + Math.abs((s.head(i) < heads ? gains : doubles(key))[i % headDim])));

    float[] dOut = random(s.size());
    Gradient g = backward(s, doubles(x), doubles(query), doubles(key), doubles(dOut));
    for (boolean inPlace : new boolean[] {false, true}) {
      MemorySegment given = inPlace ? buffers.changing(dOut) : buffers.input(dOut);
      MemorySegment dX = inPlace ? given : buffers.floats(s.size());
      float[] before = random(headDim);
      MemorySegment dQuery = inPlace ? buffers.changing(before) : NULL;
      MemorySegment dKey = inPlace ? buffers.changing(before) : NULL;
      kernels.headNormBackward(
          buffers.input(x),
          buffers.input(query),
          buffers.input(key),
          (float) offset,
          rstd,
          given,
          dX,
          dQuery,
          dKey,
          tokens,
          heads,
          kvHeads,
          headDim);
      assertNear("d_x", g.dX, dX, i -> 8 * EPS * g.sizes[i]);
      if (inPlace) {
        assertWeights("d_query", g.dQuery, before, dQuery, s, x, dOut);
        assertWeights("d_key", g.dKey, before, dKey, s, x, dOut);
      }
    }
  }

  private static void assertWeights(
      String what,
      double[] gradient,
      float[] before,
      MemorySegment actual,
      Shape s,
      float[] x,
      float[] dOut) {
    double[] expected = new double[s.headDim];
    double[] sizes = new double[s.headDim];
    for (int i = 0; i < s.size(); i++) {
      sizes[i % s.headDim] += Math.abs(dOut[i] * x[i] * rstd(s, doubles(x), i));
    }
    for (int c = 0; c < s.headDim; c++) expected[c] = gradient[c] + before[c];
    assertNear(what, expected, actual, c -> EPS * (2 * sizes[c] + Math.abs(expected[c])));
  }

  @Test
  void theReferenceIsTheGradient() {
    Shape s = new Shape(2, 2, 1, 3, 1);
    double[] x = doubles(random(s.size()));
    double[] query = doubles(random(3));
    double[] key = doubles(random(3));
    double[] dOut = doubles(random(s.size()));
    Gradient g = backward(s, x, query, key, dOut);
    assertGradient(v -> dot(forward(s, v, query, key), dOut), x, g.dX);
    assertGradient(v -> dot(forward(s, x, v, key), dOut), query, g.dQuery);
    assertGradient(v -> dot(forward(s, x, query, v), dOut), key, g.dKey);
  }

  @Test
  void isTheSameForAnyThreads() {
    Shape s = new Shape(700, 4, 2, 80, 0);
    MemorySegment x = buffers.input(random(s.size()));
    MemorySegment query = buffers.input(random(80));
    MemorySegment key = buffers.input(random(80));
    MemorySegment dOut = buffers.input(random(s.size()));
    MemorySegment out = buffers.floats(s.size());
    MemorySegment rstd = buffers.floats(700 * 6);
    MemorySegment dX = buffers.floats(s.size());
    assertSameForAnyThreads(
        () -> {
          MemorySegment dQuery = buffers.changing(new float[80]);
          MemorySegment dKey = buffers.changing(new float[80]);
          kernels.headNormForward(x, query, key, 0, 1e-6f, out, rstd, 700, 4, 2, 80);
          kernels.headNormBackward(x, query, key, 0, rstd, dOut, dX, dQuery, dKey, 700, 4, 2, 80);
          return concat(out, rstd, dX, dQuery, dKey);
        });
  }
}
