package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.bindings.NativeException;
import espalier.device.ElementType;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

class AttentionTest extends KernelTest {

  /**
   * What the kernels compute, as they store it, in the host's memory and without what lies between
   * rows.
   */
  private record Result(
      MemorySegment out, MemorySegment lse, MemorySegment dQ, MemorySegment dK, MemorySegment dV) {

    MemorySegment[] all() {
      return new MemorySegment[] {out, lse, dQ, dK, dV};
    }
  }

  private record Inputs(float[] q, float[] k, float[] v, float[] dOut) {}

  private Inputs inputs(ElementType type, AttentionReference a) {
    return new Inputs(
        random(type, a.tokens() * a.qCols(), 1),
        random(type, a.tokens() * a.kvCols(), 1),
        random(type, a.tokens() * a.kvCols(), 1),
        random(type, a.tokens() * a.qCols(), 1));
  }

  private Inputs inputs(AttentionReference a) {
    return inputs(ElementType.F32, a);
  }

  private Result run(AttentionReference a, Inputs x, int extra) {
    return run(ElementType.F32, a, x, extra);
  }

  private Result run(ElementType type, AttentionReference a, Inputs x, int extra) {
    Kernels kernels = kernels(type);
    int ldQ = a.qCols() + extra;
    int ldKv = a.kvCols() + extra;
    MemorySegment qIn = buffers.input(type, widen(x.q, a.qCols(), ldQ));
    MemorySegment kIn = buffers.input(type, widen(x.k, a.kvCols(), ldKv));
    MemorySegment vIn = buffers.input(type, widen(x.v, a.kvCols(), ldKv));
    int ldOut = a.qCols() + extra;
    MemorySegment out = buffers.output(type, a.tokens() * ldOut);
    MemorySegment lse = buffers.floats(a.tokens() * a.heads());
    kernels.attentionForward(
        qIn,
        ldQ,
        kIn,
        vIn,
        ldKv,
        out,
        ldOut,
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
    MemorySegment dQ = buffers.output(type, a.tokens() * ldQ);
    MemorySegment dK = buffers.output(type, a.tokens() * ldKv);
    MemorySegment dV = buffers.output(type, a.tokens() * ldKv);
    kernels.attentionBackward(
        qIn,
        ldQ,
        kIn,
        vIn,
        ldKv,
        buffers.input(type, TestBuffers.toFloats(type, out)),
        ldOut,
        buffers.input(TestBuffers.toFloats(lse)),
        buffers.input(type, x.dOut),
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
        narrow(type, out, a.qCols(), ldOut),
        narrow(ElementType.F32, lse, a.heads(), a.heads()),
        narrow(type, dQ, a.qCols(), ldQ),
        narrow(type, dK, a.kvCols(), ldKv),
        narrow(type, dV, a.kvCols(), ldKv));
  }

  private static AttentionReference shape(
      int batch, int seqLen, int heads, int kvHeads, int d, double softcap, int window) {
    return new AttentionReference(
        batch,
        seqLen,
        heads,
        kvHeads,
        d,
        (float) (1 / Math.sqrt(d)),
        (float) softcap,
        window,
        Storage.EXACT);
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
    forwardAndBackward(ElementType.F32, a, batch == 2 ? 7 : 0);
  }

  /**
   * Shapes for tensor cores, some of so few blocks that two warpgroups share one; then heads, rows
   * and addresses that are not.
   */
  @ParameterizedTest
  @CsvSource({
    "1, 1, 1, 1, 64, 0, 0, true",
    "2, 65, 2, 2, 64, 0, 0, true",
    "1, 300, 4, 2, 64, 30, 0, true",
    "2, 200, 2, 1, 64, 0, 33, true",
    "1, 150, 6, 2, 16, 0, 0, true",
    "1, 131, 2, 1, 72, 0, 50, true",
    "1, 140, 3, 3, 80, 0, 0, true",
    "2, 96, 2, 1, 96, 4, 40, true",
    "1, 261, 2, 1, 128, 5, 0, true",
    "1, 193, 2, 2, 128, 0, 65, true",
    "1, 100, 2, 1, 160, 0, 0, true",
    "1, 70, 4, 2, 192, 0, 40, true",
    "1, 129, 4, 2, 256, 50, 70, true",
    "2, 130, 2, 1, 256, 0, 0, true",
    "1, 90, 2, 1, 256, 3, 40, true",
    "1, 250, 1, 1, 64, 0, 0, true",
    "1, 190, 3, 1, 40, 8, 100, true",
    "1, 180, 1, 1, 128, 6, 0, true",
    "1, 256, 1, 1, 104, 0, 90, true",
    "1, 200, 1, 1, 200, 0, 75, true",
    "1, 70, 2, 1, 20, 2.5, 30, true",
    "2, 65, 2, 2, 33, 0, 0, true",
    "2, 70, 4, 2, 64, 0, 0, false"
  })
  void inBfloat16(
      int batch,
      int seqLen,
      int heads,
      int kvHeads,
      int d,
      double softcap,
      int window,
      boolean aligned) {
    buffers.alignTo16(aligned);
    AttentionReference a = shape(batch, seqLen, heads, kvHeads, d, softcap, window);
    forwardAndBackward(ElementType.BF16, a, batch == 2 ? 8 : 0);
  }

  private void forwardAndBackward(ElementType type, AttentionReference a, int extra) {
    Inputs x = inputs(type, a);
    double[] q = doubles(x.q);
    double[] k = doubles(x.k);
    double[] v = doubles(x.v);
    double[] dOut = doubles(x.dOut);
    int d = a.d();
    Result result = run(type, a, x, extra);

    AttentionReference.Forward f = a.forward(q, k, v);
    // A score of d products is off by sqrt(d) eps of their sizes, and its exponential relatively by
    // as much; the cap
    // adds a tanh of two roundings.
    double[] scoreError = new double[f.lse().length];
    for (int i = 0; i < scoreError.length; i++) {
      double size = f.scoreSizes()[i] + a.softcap() + Math.abs(f.lse()[i]);
      scoreError[i] = EPS * (Math.sqrt(d) + 3) * size;
    }
    assertNear("lse", f.lse(), result.lse, i -> scoreError[i] + 2 * EPS);
    double roundings = EPS * (Math.sqrt(a.seqLen()) + 4);
    assertActivations(
        "out",
        type,
        storage -> a.in(storage).forward(q, k, v).out(),
        result.out,
        i -> (2 * scoreError[i / d] + roundings) * f.outSizes()[i],
        FORWARD);

    AttentionReference.Backward b = a.backward(q, k, v, dOut);
    Map<Storage, AttentionReference.Backward> chains =
        type == ElementType.F32
            ? Map.of(Storage.EXACT, b)
            : Map.of(
                Storage.EXACT, b, Storage.BFLOAT16, a.in(Storage.BFLOAT16).backward(q, k, v, dOut));
    // p is off by scoreError twice (score and lse), delta and dP by the roundings of their d
    // products.
    double worst = Arrays.stream(scoreError).max().getAsDouble();
    double chain =
        3 * worst + EPS * (2 * Math.sqrt(d) + Math.sqrt((double) a.seqLen() * a.heads()) + 8);
    assertActivations(
        "d_q", type, s -> chains.get(s).dQ(), result.dQ, i -> chain * b.qSizes()[i], GRADIENT);
    assertActivations(
        "d_k", type, s -> chains.get(s).dK(), result.dK, i -> chain * b.kSizes()[i], GRADIENT);
    assertActivations(
        "d_v", type, s -> chains.get(s).dV(), result.dV, i -> chain * b.vSizes()[i], GRADIENT);
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

  @ParameterizedTest
  @CsvSource({"F32, 24", "BF16, 64", "BF16, 128", "BF16, 256", "BF16, 20"})
  void laterTokensChangeNoBitOfEarlierOnes(ElementType type, int d) {
    buffers.alignTo16(true);
    AttentionReference a = shape(1, 150, 2, 1, d, 0, 0);
    Inputs x = inputs(type, a);
    Result before = run(type, a, x, 0);
    int changed = 100;
    for (int c = 0; c < a.kvCols(); c++) {
      x.k[changed * a.kvCols() + c] += 1;
      x.v[changed * a.kvCols() + c] -= 1;
    }
    for (int c = 0; c < a.qCols(); c++) x.q[changed * a.qCols() + c] *= -2;
    Result after = run(type, a, x, 0);
    long kept = (long) changed * a.qCols() * type.bytes();
    assertEquals(-1, before.out.asSlice(0, kept).mismatch(after.out.asSlice(0, kept)), "out");
    assertEquals(-1, before.dQ.asSlice(0, kept).mismatch(after.dQ.asSlice(0, kept)), "d_q");
    long rows = (long) changed * a.heads() * Float.BYTES;
    assertEquals(-1, before.lse.asSlice(0, rows).mismatch(after.lse.asSlice(0, rows)), "lse");
    assertTrue(before.out.asSlice(kept).mismatch(after.out.asSlice(kept)) >= 0);
  }

  @ParameterizedTest
  @CsvSource({"F32, 16", "BF16, 16", "BF16, 72"})
  void sharedHeadsAreRepeatedHeads(ElementType type, int d) {
    buffers.alignTo16(true);
    AttentionReference grouped = shape(2, 70, 6, 2, d, 0, 0);
    AttentionReference repeated = shape(2, 70, 6, 6, d, 0, 0);
    Inputs x = inputs(type, grouped);
    Result shared = run(type, grouped, x, 0);
    Result plain =
        run(type, repeated, new Inputs(x.q, repeat(x.k, d, 3), repeat(x.v, d, 3), x.dOut), 0);
    assertEquals(-1, plain.out.mismatch(shared.out), "out");
    assertEquals(-1, plain.lse.mismatch(shared.lse), "lse");
    assertEquals(-1, plain.dQ.mismatch(shared.dQ), "d_q");
    // The shared head's gradient is the sum of its copies': three terms of d_k's own error.
    double error = type == ElementType.F32 ? 1e-6 : 3 * 0x1p-8;
    double[] dK = sumGroups(TestBuffers.toFloats(type, plain.dK), d, 3);
    double scale = Arrays.stream(dK).map(Math::abs).max().getAsDouble();
    assertNear("d_k", dK, TestBuffers.toFloats(type, shared.dK), i -> error * scale);
    double[] dV = sumGroups(TestBuffers.toFloats(type, plain.dV), d, 3);
    double vScale = Arrays.stream(dV).map(Math::abs).max().getAsDouble();
    assertNear("d_v", dV, TestBuffers.toFloats(type, shared.dV), i -> error * vScale);
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
    Inputs x = inputs(shape(2, 140, 2, 1, 16, 0, 0));
    Result none = run(shape(2, 140, 2, 1, 16, 0, 0), x, 0);
    for (int window : new int[] {140, 141, 4096}) {
      Result wide = run(shape(2, 140, 2, 1, 16, 0, window), x, 0);
      assertEquals(-1, none.out.mismatch(wide.out), "out");
      assertEquals(-1, none.dK.mismatch(wide.dK), "d_k");
    }
    Result narrow = run(shape(2, 140, 2, 1, 16, 0, 139), x, 0);
    assertTrue(none.out.mismatch(narrow.out) >= 0);
  }

  @Test
  void aHighCapIsNoCap() {
    Inputs x = inputs(shape(1, 80, 2, 1, 16, 0, 0));
    float[] none = TestBuffers.toFloats(run(shape(1, 80, 2, 1, 16, 0, 0), x, 0).out);
    Result high = run(shape(1, 80, 2, 1, 16, 1e4, 0), x, 0);
    double scale = 0;
    for (float value : none) scale = Math.max(scale, Math.abs(value));
    // tanh(u) = u - u^3/3: a score of 10 changes by 10^3 / (3 * 10^8).
    double bound = 1e-5 * scale;
    assertNear("out", doubles(none), high.out, i -> bound);
  }

  /** Scores far beyond the exponential's range. */
  @ParameterizedTest
  @EnumSource(ElementType.class)
  void largeScoresAreFinite(ElementType type) {
    buffers.alignTo16(true);
    AttentionReference a = shape(1, 70, 1, 1, 8, 0, 0);
    Inputs x =
        new Inputs(
            random(type, 70 * 8, 60),
            random(type, 70 * 8, 60),
            random(type, 70 * 8, 1),
            random(type, 70 * 8, 1));
    Result result = run(type, a, x, 0);
    for (MemorySegment activations :
        new MemorySegment[] {result.out, result.dQ, result.dK, result.dV}) {
      for (float value : TestBuffers.toFloats(type, activations)) {
        assertTrue(Float.isFinite(value));
      }
    }
    for (float value : TestBuffers.toFloats(result.lse)) assertTrue(Float.isFinite(value));
  }

  @ParameterizedTest
  @CsvSource({"2, 350, 6, 2, 32, 0, 0", "1, 300, 4, 2, 256, 50, 130", "2, 200, 3, 3, 80, 0, 65"})
  void isTheSameForAnyThreads(
      int batch, int seqLen, int heads, int kvHeads, int d, double softcap, int window) {
    AttentionReference a = shape(batch, seqLen, heads, kvHeads, d, softcap, window);
    Inputs x = inputs(a);
    assertSameForAnyThreads(() -> concat(run(a, x, 0).all()));
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
                    x,
                    heads * d,
                    x,
                    x,
                    kvHeads * d,
                    x,
                    heads * d,
                    x,
                    1,
                    4,
                    heads,
                    kvHeads,
                    d,
                    1,
                    0,
                    window));
    assertTrue(e.getMessage().contains(complaint), e.getMessage());
  }
}
