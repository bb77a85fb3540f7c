package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.bindings.NativeException;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class AttentionTest extends KernelTest {

  /** What the kernels compute: out and lse, or dq, dk, dv; rows without what lies between them. */
  private record Result(float[] out, float[] lse, float[] dQ, float[] dK, float[] dV) {}

  private Result run(
      AttentionReference a, float[] q, float[] k, float[] v, float[] dOut, int extra) {
    int ldQ = a.qCols() + extra;
    int ldKv = a.kvCols() + extra;
    MemorySegment qIn = buffers.input(widen(q, a.qCols(), ldQ));
    MemorySegment kIn = buffers.input(widen(k, a.kvCols(), ldKv));
    MemorySegment vIn = buffers.input(widen(v, a.kvCols(), ldKv));
    MemorySegment out = buffers.floats(a.tokens() * a.qCols());
    MemorySegment lse = buffers.floats(a.tokens() * a.heads());
    kernels.attentionForward(
        qIn,
        ldQ,
        kIn,
        vIn,
        ldKv,
        out,
        lse,
        a.batch(),
        a.seqLen(),
        a.heads(),
        a.kvHeads(),
        a.d(),
        (float) a.scale(),
        (float) a.softcap(),
        a.window());
    MemorySegment delta = buffers.floats(a.tokens() * a.heads());
    MemorySegment dQ = buffers.floats(a.tokens() * ldQ);
    MemorySegment dK = buffers.floats(a.tokens() * ldKv);
    MemorySegment dV = buffers.floats(a.tokens() * ldKv);
    kernels.attentionBackward(
        qIn,
        ldQ,
        kIn,
        vIn,
        ldKv,
        buffers.input(TestBuffers.toFloats(out)),
        buffers.input(TestBuffers.toFloats(lse)),
        buffers.input(dOut),
        delta,
        dQ,
        dK,
        dV,
        a.batch(),
        a.seqLen(),
        a.heads(),
        a.kvHeads(),
        a.d(),
        (float) a.scale(),
        (float) a.softcap(),
        a.window());
    return new Result(
        TestBuffers.toFloats(out),
        TestBuffers.toFloats(lse),
        narrow(dQ, a.qCols(), ldQ),
        narrow(dK, a.kvCols(), ldKv),
        narrow(dV, a.kvCols(), ldKv));
  }

  private static float[] widen(float[] x, int cols, int ld) {
    float[] out = new float[x.length / cols * ld];
    Arrays.fill(out, Float.NaN); // what lies between rows is nobody's business
    for (int r = 0; r < x.length / cols; r++) System.arraycopy(x, r * cols, out, r * ld, cols);
    return out;
  }

  private static float[] narrow(MemorySegment buffer, int cols, int ld) {
    float[] x = TestBuffers.toFloats(buffer);
    float[] out = new float[x.length / ld * cols];
    for (int r = 0; r < x.length / ld; r++) {
      System.arraycopy(x, r * ld, out, r * cols, cols);
      for (int c = cols; c < ld; c++) {
        assertEquals(-1, Float.floatToRawIntBits(x[r * ld + c]), "written between rows");
      }
    }
    return out;
  }

  private static AttentionReference shape(
      int batch, int seqLen, int heads, int kvHeads, int d, double softcap, int window) {
    return new AttentionReference(
        batch, seqLen, heads, kvHeads, d, (float) (1 / Math.sqrt(d)), (float) softcap, window);
  }

  @ParameterizedTest
  @CsvSource({
    "1, 1, 1, 1, 1, 0, 0",
    "1, 2, 2, 1, 3, 0, 0",
    "3, 17, 4, 2, 8, 0, 0",
    "2, 64, 3, 1, 16, 0, 0",
    "2, 65, 2, 2, 33, 0, 0",
    "1, 130, 6, 2, 64, 0, 0",
    "1, 129, 2, 1, 128, 5, 0",
    "1, 70, 2, 1, 256, 0, 0",
    "1, 200, 2, 2, 20, 0, 33",
    "2, 150, 4, 1, 12, 2.5, 64",
    "1, 140, 1, 1, 5, 0, 1",
    "1, 193, 2, 1, 31, 30, 65",
    "1, 150, 4, 2, 256, 50, 70",
    "2, 130, 2, 1, 256, 3, 64",
    "1, 140, 3, 3, 80, 0, 0",
    "2, 96, 2, 1, 96, 4, 40",
    "1, 133, 2, 2, 72, 0, 50"
  })
  void forwardAndBackward(
      int batch, int seqLen, int heads, int kvHeads, int d, double softcap, int window) {
    AttentionReference a = shape(batch, seqLen, heads, kvHeads, d, softcap, window);
    float[] q = random(a.tokens() * a.qCols());
    float[] k = random(a.tokens() * a.kvCols());
    float[] v = random(a.tokens() * a.kvCols());
    float[] dOut = random(a.tokens() * a.qCols());
    Result result = run(a, q, k, v, dOut, batch == 2 ? 7 : 0);

    AttentionReference.Forward f = a.forward(doubles(q), doubles(k), doubles(v));
    // A score of d products is off by sqrt(d) eps of their sizes, and its exponential relatively by
    // as much; the cap
    // adds a tanh of two roundings.
    double[] scoreError = new double[f.lse().length];
    for (int i = 0; i < scoreError.length; i++) {
      double size = f.scoreSizes()[i] + softcap + Math.abs(f.lse()[i]);
      scoreError[i] = EPS * (Math.sqrt(d) + 3) * size;
    }
    assertNear("lse", f.lse(), result.lse, i -> scoreError[i] + 2 * EPS);
    double roundings = EPS * (Math.sqrt(seqLen) + 4);
    assertNear(
        "out", f.out(), result.out, i -> (2 * scoreError[i / d] + roundings) * f.outSizes()[i]);

    AttentionReference.Backward b = a.backward(doubles(q), doubles(k), doubles(v), doubles(dOut));
    // p is off by scoreError twice (score and lse), delta and dP by the roundings of their d
    // products.
    double worst = Arrays.stream(scoreError).max().getAsDouble();
    double chain = 3 * worst + EPS * (2 * Math.sqrt(d) + Math.sqrt((double) seqLen * heads) + 8);
    assertNear("d_q", b.dQ(), result.dQ, i -> chain * b.qSizes()[i]);
    assertNear("d_k", b.dK(), result.dK, i -> chain * b.kSizes()[i]);
    assertNear("d_v", b.dV(), result.dV, i -> chain * b.vSizes()[i]);
  }

  @ParameterizedTest
  @CsvSource({"0, 0", "1.5, 0", "0, 3", "2, 2"})
  void theReferenceIsTheGradient(double softcap, int window) {
    AttentionReference a = shape(2, 5, 4, 2, 3, softcap, window);
    double[] q = doubles(random(a.tokens() * a.qCols()));
    double[] k = doubles(random(a.tokens() * a.kvCols()));
    double[] v = doubles(random(a.tokens() * a.kvCols()));
    double[] dOut = doubles(random(a.tokens() * a.qCols()));
    AttentionReference.Backward b = a.backward(q, k, v, dOut);
    assertGradient(x -> dot(a.forward(x, k, v).out(), dOut), q, b.dQ());
    assertGradient(x -> dot(a.forward(q, x, v).out(), dOut), k, b.dK());
    assertGradient(x -> dot(a.forward(q, k, x).out(), dOut), v, b.dV());
  }

  @Test
  void laterTokensChangeNoBitOfEarlierOnes() {
    AttentionReference a = shape(1, 150, 2, 1, 24, 0, 0);
    float[] q = random(a.tokens() * a.qCols());
    float[] k = random(a.tokens() * a.kvCols());
    float[] v = random(a.tokens() * a.kvCols());
    float[] dOut = random(a.tokens() * a.qCols());
    Result before = run(a, q, k, v, dOut, 0);
    int changed = 100;
    for (int c = 0; c < a.kvCols(); c++) {
      k[changed * a.kvCols() + c] += 1;
      v[changed * a.kvCols() + c] -= 1;
    }
    for (int c = 0; c < a.qCols(); c++) q[changed * a.qCols() + c] *= -2;
    Result after = run(a, q, k, v, dOut, 0);
    int kept = changed * a.qCols();
    assertSameBits(Arrays.copyOf(before.out, kept), Arrays.copyOf(after.out, kept), "out");
    assertSameBits(Arrays.copyOf(before.dQ, kept), Arrays.copyOf(after.dQ, kept), "d_q");
    for (int i = 0; i < changed * a.heads(); i++) assertEquals(before.lse[i], after.lse[i]);
    assertNotAllEqual(
        Arrays.copyOfRange(before.out, kept, before.out.length),
        Arrays.copyOfRange(after.out, kept, after.out.length));
  }

  @Test
  void sharedHeadsAreRepeatedHeads() {
    AttentionReference grouped = shape(2, 70, 6, 2, 16, 0, 0);
    AttentionReference repeated = shape(2, 70, 6, 6, 16, 0, 0);
    float[] q = random(grouped.tokens() * grouped.qCols());
    float[] k = random(grouped.tokens() * grouped.kvCols());
    float[] v = random(grouped.tokens() * grouped.kvCols());
    float[] dOut = random(grouped.tokens() * grouped.qCols());
    Result shared = run(grouped, q, k, v, dOut, 0);
    Result plain = run(repeated, q, repeat(k, 16, 3), repeat(v, 16, 3), dOut, 0);
    assertSameBits(plain.out, shared.out, "out");
    assertSameBits(plain.lse, shared.lse, "lse");
    assertSameBits(plain.dQ, shared.dQ, "d_q");
    // The shared head's gradient is the sum of its copies': three terms of d_k's own error.
    double[] dK = sumGroups(plain.dK, 16, 3);
    double scale = Arrays.stream(dK).map(Math::abs).max().getAsDouble();
    assertNear("d_k", dK, shared.dK, i -> 1e-6 * scale);
    double[] dV = sumGroups(plain.dV, 16, 3);
    double vScale = Arrays.stream(dV).map(Math::abs).max().getAsDouble();
    assertNear("d_v", dV, shared.dV, i -> 1e-6 * vScale);
  }

  private static float[] repeat(float[] x, int d, int times) {
    float[] out = new float[x.length * times];
    for (int i = 0; i < out.length; i++) out[i] = x[i / (d * times) * d + i % d];
    return out;
  }

  private static double[] sumGroups(float[] x, int d, int times) {
    double[] out = new double[x.length / times];
    for (int i = 0; i < x.length; i++) out[i / (d * times) * d + i % d] += x[i];
    return out;
  }

  @Test
  void aWindowOverAllIsNoWindow() {
    float[][] data = data(shape(2, 140, 2, 1, 16, 0, 0));
    Result none = run(shape(2, 140, 2, 1, 16, 0, 0), data[0], data[1], data[2], data[3], 0);
    for (int window : new int[] {140, 141, 4096}) {
      Result wide = run(shape(2, 140, 2, 1, 16, 0, window), data[0], data[1], data[2], data[3], 0);
      assertSameBits(none.out, wide.out, "out");
      assertSameBits(none.dK, wide.dK, "d_k");
    }
    Result narrow = run(shape(2, 140, 2, 1, 16, 0, 139), data[0], data[1], data[2], data[3], 0);
    assertNotAllEqual(none.out, narrow.out);
  }

  @Test
  void aHighCapIsNoCap() {
    float[][] data = data(shape(1, 80, 2, 1, 16, 0, 0));
    Result none = run(shape(1, 80, 2, 1, 16, 0, 0), data[0], data[1], data[2], data[3], 0);
    Result high = run(shape(1, 80, 2, 1, 16, 1e4, 0), data[0], data[1], data[2], data[3], 0);
    double scale = 0;
    for (float value : none.out) scale = Math.max(scale, Math.abs(value));
    // tanh(u) = u - u^3/3: a score of 10 changes by 10^3 / (3 * 10^8).
    double bound = 1e-5 * scale;
    assertNear("out", doubles(none.out), high.out, i -> bound);
  }

  /** Scores far beyond the exponential's range. */
  @Test
  void largeScoresAreFinite() {
    AttentionReference a = shape(1, 70, 1, 1, 8, 0, 0);
    float[] q = random(70 * 8, 60);
    float[] k = random(70 * 8, 60);
    Result result = run(a, q, k, random(70 * 8), random(70 * 8), 0);
    for (float[] values : new float[][] {result.out, result.lse, result.dQ, result.dK, result.dV}) {
      for (float value : values) assertTrue(Float.isFinite(value));
    }
  }

  @ParameterizedTest
  @CsvSource({"2, 350, 6, 2, 32, 0, 0", "1, 300, 4, 2, 256, 50, 130", "2, 200, 3, 3, 80, 0, 65"})
  void isTheSameForAnyThreads(
      int batch, int seqLen, int heads, int kvHeads, int d, double softcap, int window) {
    AttentionReference a = shape(batch, seqLen, heads, kvHeads, d, softcap, window);
    float[][] data = data(a);
    assertSameForAnyThreads(
        () -> {
          Result r = run(a, data[0], data[1], data[2], data[3], 0);
          return concat(
              MemorySegment.ofArray(r.out),
              MemorySegment.ofArray(r.lse),
              MemorySegment.ofArray(r.dQ),
              MemorySegment.ofArray(r.dK),
              MemorySegment.ofArray(r.dV));
        });
  }

  private float[][] data(AttentionReference a) {
    return new float[][] {
      random(a.tokens() * a.qCols()),
      random(a.tokens() * a.kvCols()),
      random(a.tokens() * a.kvCols()),
      random(a.tokens() * a.qCols())
    };
  }

  @ParameterizedTest
  @CsvSource({
    "3, 2, 8, 0, n_kv_heads=2 does not divide n_heads=3",
    "2, 1, 257, 0, head_dim must be in",
    "2, 1, 8, -1, window must not be negative"
  })
  void refusesWhatItCannotDo(int heads, int kvHeads, int d, int window, String complaint) {
    MemorySegment x = buffers.floats(4 * heads * d);
    NativeException e =
        assertThrows(
            NativeException.class,
            () ->
                kernels.attentionForward(
                    x, heads * d, x, x, kvHeads * d, x, x, 1, 4, heads, kvHeads, d, 1, 0, window));
    assertTrue(e.getMessage().contains(complaint), e.getMessage());
  }
}
