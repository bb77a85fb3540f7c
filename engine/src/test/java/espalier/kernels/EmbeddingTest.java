package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import espalier.device.DeviceChoice;
import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class EmbeddingTest extends KernelTest {

  @ParameterizedTest
  @CsvSource({"1, 1, 1", "37, 11, 65", "300, 5, 130", "0, 3, 4"})
  void forwardAndBackward(int tokens, int vocab, int d) {
    int[] ids = randomInts(tokens, vocab); // few rows, many tokens: rows repeat
    float[] table = random(vocab * d);
    float scale = 1.7f;
    MemorySegment out = buffers.floats(tokens * d);
    kernels.embeddingForward(
        buffers.input(ids), buffers.input(table), scale, out, tokens, vocab, d);
    double[] expected = new double[tokens * d];
    for (int i = 0; i < tokens * d; i++) {
      expected[i] = (double) scale * table[ids[i / d] * d + i % d];
    }
    assertNear("out", expected, out, relative(expected, 1));

    float[] dOut = random(tokens * d);
    float[] before = random(vocab * d);
    MemorySegment dTable = buffers.changing(before);
    kernels.embeddingBackward(
        buffers.input(ids), buffers.input(dOut), scale, dTable, tokens, vocab, d);
    double[] gradient = new double[vocab * d];
    double[] sizes = new double[vocab * d];
    int[] terms = new int[vocab];
    for (int t = 0; t < tokens; t++) {
      terms[ids[t]]++;
      for (int c = 0; c < d; c++) {
        gradient[ids[t] * d + c] += (double) scale * dOut[t * d + c];
        sizes[ids[t] * d + c] += Math.abs((double) scale * dOut[t * d + c]);
      }
    }
    if (tokens > 0 && tokens < 50) {
      assertGradient(x -> loss(x, ids, scale, dOut, d), doubles(table), gradient);
    }
    for (int i = 0; i < vocab * d; i++) gradient[i] += before[i];
    assertNear(
        "d_table",
        gradient,
        dTable,
        i -> EPS * (Math.sqrt(terms[i / d]) + 1) * (sizes[i] + Math.abs(before[i])));
  }

  private static double loss(double[] table, int[] ids, float scale, float[] dOut, int d) {
    double sum = 0;
    for (int i = 0; i < dOut.length; i++) sum += scale * table[ids[i / d] * d + i % d] * dOut[i];
    return sum;
  }

  @ParameterizedTest
  @CsvSource({"2000, 7, 200"})
  void backwardIsTheSameForAnyThreads(int tokens, int vocab, int d) {
    MemorySegment ids = buffers.input(randomInts(tokens, vocab));
    MemorySegment dOut = buffers.input(random(tokens * d));
    assertSameForAnyThreads(
        () -> {
          MemorySegment dTable = buffers.changing(new float[vocab * d]);
          kernels.embeddingBackward(ids, dOut, 1, dTable, tokens, vocab, d);
          return TestBuffers.toFloats(dTable);
        });
  }

  /** A GPU cannot refuse an id before it runs: the loss must not be a number. */
  @Test
  void anUnknownIdIsNotANumberOnAGpu() {
    assumeTrue(DeviceChoice.current().kind() != DeviceChoice.Kind.CPU, "the CPU refuses it");
    MemorySegment ids = buffers.input(0, 4, -1);
    MemorySegment out = buffers.floats(6);
    kernels.embeddingForward(ids, buffers.input(random(8)), 1, out, 3, 4, 2);
    float[] rows = TestBuffers.toFloats(out);
    for (int i = 0; i < 6; i++) assertEquals(i >= 2, Float.isNaN(rows[i]), "out[" + i + "]");
    MemorySegment dTable = buffers.changing(new float[8]);
    kernels.embeddingBackward(ids, buffers.input(1f, 1, 1, 1, 1, 1), 1, dTable, 3, 4, 2);
    assertArrayEquals(new float[] {1, 1, 0, 0, 0, 0, 0, 0}, TestBuffers.toFloats(dTable));
  }
}
