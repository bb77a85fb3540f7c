package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class PositionsTest extends KernelTest {

  @ParameterizedTest
  @CsvSource({"1, 1, 1", "3, 5, 33", "7, 40, 130", "0, 4, 8"})
  void forwardAndBackward(int batch, int seqLen, int d) {
    int tokens = batch * seqLen;
    float[] x = random(tokens * d);
    float[] table = random((seqLen + 2) * d); // more positions than are used
    MemorySegment out = buffers.floats(tokens * d);
    kernels.addPositions(buffers.input(x), buffers.input(table), out, tokens, seqLen, d);
    MemorySegment inPlace = buffers.changing(x);
    kernels.addPositions(inPlace, buffers.input(table), inPlace, tokens, seqLen, d);
    float[] actual = TestBuffers.toFloats(out);
    for (int i = 0; i < tokens * d; i++) {
      assertEquals(x[i] + table[i / d % seqLen * d + i % d], actual[i]);
    }
    assertSameBits(actual, TestBuffers.toFloats(inPlace), "in place");

    float[] dOut = random(tokens * d);
    float[] before = random((seqLen + 2) * d);
    MemorySegment dTable = buffers.changing(before);
    kernels.addPositionsBackward(buffers.input(dOut), dTable, tokens, seqLen, d);
    double[] expected = doubles(before);
    double[] sizes = new double[expected.length];
    for (int i = 0; i < expected.length; i++) sizes[i] = Math.abs(before[i]);
    for (int i = 0; i < tokens * d; i++) {
      int at = i / d % seqLen * d + i % d;
      expected[at] += dOut[i];
      sizes[at] += Math.abs(dOut[i]);
    }
    assertNear("d_table", expected, dTable, i -> batch * EPS * sizes[i]);
  }

  @Test
  void backwardIsTheSameForAnyThreads() {
    MemorySegment dOut = buffers.input(random(30 * 64 * 300));
    assertSameForAnyThreads(
        () -> {
          MemorySegment dTable = buffers.changing(new float[64 * 300]);
          kernels.addPositionsBackward(dOut, dTable, 30 * 64, 64, 300);
          return TestBuffers.toFloats(dTable);
        });
  }
}
