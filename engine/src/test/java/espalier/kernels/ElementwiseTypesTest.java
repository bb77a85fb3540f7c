package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.device.ElementType;
import espalier.device.Kernels;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Elementwise operations, sums, dropout, rows, positions and embedding in every type. */
class ElementwiseTypesTest extends TypedKernelTest {

  private static final int ROWS = 37;
  private static final int COLS = 72;
  private static final int N = ROWS * COLS;

  @ParameterizedTest
  @MethodSource("layouts")
  void copyAddAxpy(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    float[] x = random(type, N, 1);
    float[] y = random(type, N, 1);
    MemorySegment copied = buffers.output(type, N);
    kernels.copy(buffers.input(type, x), copied, N);
    assertArrayEquals(x, TestBuffers.toFloats(type, copied));
    MemorySegment sum = buffers.output(type, N);
    kernels.add(buffers.input(type, x), buffers.input(type, y), sum, N);
    assertActivations("sum", type, s -> each(N, i -> s.keep(x[i] + y[i])), sum, 1);
    MemorySegment scaled = buffers.changing(type, y);
    kernels.axpy(-0.3f, buffers.input(type, x), scaled, N);
    assertActivations(
        "axpy",
        type,
        s -> each(N, i -> s.keep(y[i] + s.keep((double) -0.3f * x[i]))),
        scaled,
        FORWARD);
  }

  @ParameterizedTest
  @MethodSource("layouts")
  void rowsAndColumns(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    float[] x = random(type, N, 1);
    byte[] flags = new byte[ROWS];
    for (int r = 0; r < ROWS; r += 3) flags[r] = 1;
    float[] row = random(type, COLS, 1);
    MemorySegment filled = buffers.output(type, N);
    kernels.fillRows(buffers.input(row), filled, ROWS, COLS);
    float[] values = TestBuffers.toFloats(type, filled);
    for (int i = 0; i < N; i++) assertEquals(row[i % COLS], values[i]);
    MemorySegment kept = buffers.output(type, N);
    kernels.keepRows(buffers.input(type, x), buffers.input(flags), kept, ROWS, COLS);
    values = TestBuffers.toFloats(type, kept);
    for (int i = 0; i < N; i++) assertEquals(flags[i / COLS] != 0 ? x[i] : 0, values[i]);

    float[] before = random(COLS);
    MemorySegment sums = buffers.changing(before);
    kernels.columnSum(buffers.input(type, x), COLS, buffers.input(flags), -0.7f, sums, ROWS, COLS);
    double[] expected = doubles(before);
    for (int i = 0; i < N; i++) {
      if (flags[i / COLS] == 0) expected[i % COLS] += (double) -0.7f * x[i];
    }
    assertNear("column sum", expected, sums, relative(expected, 1));
  }

  /** The same elements are left out in every type. */
  @ParameterizedTest
  @MethodSource("layouts")
  void dropout(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    float[] mask = new float[N];
    Arrays.fill(mask, 1);
    MemorySegment drawn = buffers.changing(mask);
    KernelTest.kernels.dropout(drawn, drawn, N, 0.25f, buffers.input(5L), 6, false);
    float[] kept = TestBuffers.toFloats(drawn);
    float[] x = random(type, N, 1);
    float[] before = random(type, N, 1);
    for (boolean accumulate : new boolean[] {false, true}) {
      MemorySegment out = buffers.changing(type, before);
      kernels.dropout(buffers.input(type, x), out, N, 0.25f, buffers.input(5L), 6, accumulate);
      assertActivations(
          "out",
          type,
          s ->
              each(
                  N,
                  i -> {
                    double value = kept[i] == 0 ? 0 : s.keep(x[i] / 0.75);
                    return accumulate ? s.keep(before[i] + value) : value;
                  }),
          out,
          FORWARD);
    }
  }

  @ParameterizedTest
  @MethodSource("layouts")
  void distance(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    float[] x = random(type, N, 3);
    float[] y = random(type, N, 3);
    MemorySegment out = buffers.doubles(3);
    kernels.sequenceDistance(
        buffers.input(type, x), buffers.input(type, y), NULL, out, 1, ROWS, COLS);
    double[] expected = {ROWS, 0, 0};
    for (int r = 0; r < ROWS; r++) {
      double error = 0;
      double xx = 0;
      double yy = 0;
      double xy = 0;
      for (int i = r * COLS; i < (r + 1) * COLS; i++) {
        error += ((double) x[i] - y[i]) * ((double) x[i] - y[i]);
        xx += (double) x[i] * x[i];
        yy += (double) y[i] * y[i];
        xy += (double) x[i] * y[i];
      }
      expected[1] += Math.sqrt(error);
      expected[2] += xy / Math.sqrt(xx * yy);
    }
    assertArrayEquals(expected, Transfer.doubles(out), 1e-11 * expected[1]);
  }

  @ParameterizedTest
  @MethodSource("layouts")
  void positions(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    int seqLen = 11; // the last sequence is cut off
    float[] x = random(type, N, 1);
    float[] table = random(type, seqLen * COLS, 1);
    MemorySegment out = buffers.output(type, N);
    kernels.addPositions(
        buffers.input(type, x), buffers.input(type, table), out, ROWS, seqLen, COLS);
    assertActivations(
        "out", type, s -> each(N, i -> s.keep(x[i] + table[i % (seqLen * COLS)])), out, 1);
    MemorySegment dTable = buffers.changing(new float[seqLen * COLS]);
    kernels.addPositionsBackward(buffers.input(type, x), dTable, ROWS, seqLen, COLS);
    double[] expected = new double[seqLen * COLS];
    for (int i = 0; i < N; i++) expected[i % (seqLen * COLS)] += x[i];
    assertNear("d_table", expected, dTable, i -> 4 * EPS * (1 + Math.abs(expected[i])));
  }

  @ParameterizedTest
  @MethodSource("layouts")
  void embedding(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    int vocab = 9;
    int tokens = 600; // more than a block looks at at once
    int[] ids = randomInts(tokens, vocab);
    float[] table = random(type, vocab * COLS, 1);
    float scale = 1.7f;
    MemorySegment out = buffers.output(type, tokens * COLS);
    kernels.embeddingForward(
        buffers.input(ids), buffers.input(type, table), scale, out, tokens, vocab, COLS);
    assertActivations(
        "out",
        type,
        s ->
            each(
                tokens * COLS,
                i -> s.keep((double) scale * table[ids[i / COLS] * COLS + i % COLS])),
        out,
        FORWARD);
    float[] dOut = random(type, tokens * COLS, 1);
    float[] before = random(vocab * COLS);
    MemorySegment dTable = buffers.changing(before);
    kernels.embeddingBackward(
        buffers.input(ids), buffers.input(type, dOut), scale, dTable, tokens, vocab, COLS);
    double[] expected = doubles(before);
    double[] sizes = new double[expected.length];
    for (int i = 0; i < tokens * COLS; i++) {
      int at = ids[i / COLS] * COLS + i % COLS;
      expected[at] += (double) scale * dOut[i];
      sizes[at] += Math.abs(scale * dOut[i]);
    }
    // On the CPU the sum is float32, with a hundred terms.
    assertNear("d_table", expected, dTable, i -> 10 * EPS * (sizes[i] + 1));
  }

  /** As PyTorch's: round to nearest even, NaN stays NaN. */
  @ParameterizedTest
  @MethodSource("layouts")
  void convertsFromFloats(Layout layout) {
    Kernels kernels = kernels(layout);
    ElementType type = layout.type();
    float[] x = random(64, 3);
    x[3] = Float.NaN;
    x[4] = Float.POSITIVE_INFINITY;
    x[5] = 0x1.01p0f; // ties
    x[6] = 0x1.03p0f;
    x[7] = Float.MAX_VALUE;
    x[8] = -0.0f;
    MemorySegment out = buffers.output(type, 64);
    kernels.convert(buffers.input(x), ElementType.F32.code(), out, 64);
    float[] expected = type == ElementType.F32 ? x : Bfloat16.decode(Bfloat16.encode(x));
    assertArrayEquals(expected, TestBuffers.toFloats(type, out));
    MemorySegment back = buffers.floats(64);
    kernels.convert(out, type.code(), back, 64, ElementType.F32);
    assertArrayEquals(expected, TestBuffers.toFloats(back));

    float[] rowScale = random(8);
    MemorySegment scaled = buffers.output(type, 64);
    kernels.convertMatrix(
        buffers.input(x), 0, true, buffers.input(rowScale), scaled, 8, 8, 8, type);
    float[] actual = TestBuffers.toFloats(type, scaled);
    for (int i = 0; i < 64; i++) {
      double product = (double) rowScale[i / 8] * x[i % 8 * 8 + i / 8];
      assertEquals(
          type == ElementType.F32 ? (float) product : (float) Bfloat16.round(product), actual[i]);
    }
  }
}
