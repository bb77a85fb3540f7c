package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class DistanceTest extends KernelTest {

  private static byte[] everyThird(int rows) {
    byte[] flags = new byte[rows];
    for (int r = 0; r < rows; r += 3) flags[r] = 1;
    return flags;
  }

  @ParameterizedTest
  @CsvSource({"0, 5", "1, 1", "7, 33", "1300, 257"})
  void rowsAreKeptOrZero(int rows, int cols) {
    float[] x = random(rows * cols);
    byte[] keep = everyThird(rows);
    MemorySegment out = buffers.floats(rows * cols);
    kernels.keepRows(buffers.input(x), buffers.input(keep), out, rows, cols);
    MemorySegment none = buffers.floats(rows * cols);
    kernels.keepRows(buffers.input(x), NULL, none, rows, cols);
    float[] expected = x.clone();
    for (int r = 0; r < rows; r++) {
      if (keep[r] == 0) Arrays.fill(expected, r * cols, (r + 1) * cols, 0);
    }
    assertArrayEquals(expected, TestBuffers.toFloats(out));
    assertArrayEquals(new float[rows * cols], TestBuffers.toFloats(none));
  }

  private double[] distance(float[] x, float[] y, byte[] skip, int sequences, int length, int d) {
    MemorySegment out = buffers.doubles(3 * sequences);
    kernels.sequenceDistance(
        buffers.input(x),
        buffers.input(y),
        skip == null ? NULL : buffers.input(skip),
        out,
        sequences,
        length,
        d);
    return TestBuffers.toDoubles(out);
  }

  @ParameterizedTest
  @CsvSource({"0, 3, 2", "1, 1, 1", "3, 5, 33", "4, 130, 577"})
  void distances(int sequences, int length, int d) {
    int rows = sequences * length;
    float[] x = random(rows * d, 50);
    float[] y = random(rows * d, 50);
    if (length == 5) Arrays.fill(x, d, 2 * d, 0); // of a vector without a direction the cosine is 0
    byte[] skip = length > 1 ? everyThird(rows) : null;
    double[] expected = new double[3 * sequences];
    for (int r = 0; r < rows; r++) {
      if (skip != null && skip[r] != 0) continue;
      double error = 0;
      double xx = 0;
      double yy = 0;
      double xy = 0;
      for (int i = r * d; i < (r + 1) * d; i++) {
        error += ((double) x[i] - y[i]) * ((double) x[i] - y[i]);
        xx += (double) x[i] * x[i];
        yy += (double) y[i] * y[i];
        xy += (double) x[i] * y[i];
      }
      int at = 3 * (r / length);
      expected[at]++;
      expected[at + 1] += Math.sqrt(error);
      expected[at + 2] += xx == 0 ? 0 : xy / Math.sqrt(xx * yy);
    }
    double[] got = distance(x, y, skip, sequences, length, d);
    for (int i = 0; i < expected.length; i++) {
      assertEquals(expected[i], got[i], 1e-13 * (Math.abs(expected[i]) + length), "out[" + i + "]");
    }
  }

  @Test
  void isTheSameForAnyThreads() {
    float[] x = random(8 * 90 * 70);
    float[] y = random(8 * 90 * 70);
    kernels.setThreads(1);
    double[] one = distance(x, y, null, 8, 90, 70);
    kernels.setThreads(3);
    assertArrayEquals(one, distance(x, y, null, 8, 90, 70));
  }
}
