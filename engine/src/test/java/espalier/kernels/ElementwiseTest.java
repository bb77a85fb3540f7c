package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ElementwiseTest extends KernelTest {

  @ParameterizedTest
  @ValueSource(ints = {0, 1, 15, 17, 4097, 70001})
  void fillCopyAddAxpy(int n) {
    float[] x = random(n);
    float[] y = random(n);
    MemorySegment filled = buffers.floats(n);
    kernels.fill(filled, 2.5f, n);
    MemorySegment copied = buffers.floats(n);
    kernels.copy(buffers.input(x), copied, n);
    MemorySegment sum = buffers.floats(n);
    kernels.add(buffers.input(x), buffers.input(y), sum, n);
    MemorySegment inPlace = buffers.changing(x);
    kernels.add(inPlace, buffers.input(y), inPlace, n);
    MemorySegment scaled = buffers.changing(y);
    kernels.axpy(-0.3f, buffers.input(x), scaled, n);

    float[] filledValues = TestBuffers.toFloats(filled);
    float[] copiedValues = TestBuffers.toFloats(copied);
    float[] sumValues = TestBuffers.toFloats(sum);
    float[] inPlaceValues = TestBuffers.toFloats(inPlace);
    double[] axpy = new double[n];
    double[] bound = new double[n];
    for (int i = 0; i < n; i++) {
      assertEquals(2.5f, filledValues[i]);
      assertEquals(x[i], copiedValues[i]);
      assertEquals(x[i] + y[i], sumValues[i]);
      assertEquals(x[i] + y[i], inPlaceValues[i]);
      axpy[i] = y[i] + (double) -0.3f * x[i];
      bound[i] = EPS * (Math.abs(y[i]) + Math.abs(0.3f * x[i])); // a product and a sum
    }
    assertNear("axpy", axpy, TestBuffers.toFloats(scaled), bound);
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 1, 7, 3001})
  void fillRows(int rows) {
    float[] row = random(101);
    MemorySegment out = buffers.floats(rows * 101);
    kernels.fillRows(buffers.input(row), out, rows, 101);
    float[] written = TestBuffers.toFloats(out);
    for (int i = 0; i < rows * 101; i++) {
      assertEquals(row[i % 101], written[i]);
    }
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 1, 63, 64, 65, 129, 577})
  void columnSum(int cols) {
    int rows = 101;
    int ldx = cols + 3;
    float[] x = random(rows * ldx);
    byte[] skip = new byte[rows];
    skip[0] = skip[50] = 1;
    float[] before = random(cols);
    for (boolean skipping : new boolean[] {false, true}) {
      MemorySegment out = buffers.changing(before);
      kernels.columnSum(
          buffers.input(x), ldx, skipping ? buffers.input(skip) : NULL, -0.7f, out, rows, cols);
      double[] expected = doubles(before);
      for (int r = 0; r < rows; r++) {
        if (skipping && skip[r] != 0) continue;
        for (int c = 0; c < cols; c++) expected[c] += (double) -0.7f * x[r * ldx + c];
      }
      assertNear("sum", expected, out, relative(expected, 1)); // rounded once, at the end
    }
  }

  @Test
  void columnSumIsTheSameForAnyThreads() {
    MemorySegment x = buffers.input(random(1000 * 577));
    assertSameForAnyThreads(
        () -> {
          MemorySegment out = buffers.changing(new float[577]);
          kernels.columnSum(x, 577, NULL, 1, out, 1000, 577);
          return TestBuffers.toFloats(out);
        });
  }

  /** A float32 accumulator would lose the small numbers beside the large ones. */
  @Test
  void columnSumKeepsSmallNumbersBesideLargeOnes() {
    float[] x = new float[1002];
    x[0] = 3e7f;
    for (int i = 1; i <= 1000; i++) x[i] = 0.25f;
    x[1001] = -3e7f;
    MemorySegment out = buffers.changing(0);
    kernels.columnSum(buffers.input(x), 1, NULL, 1, out, 1002, 1);
    assertEquals(250, TestBuffers.toFloats(out)[0]);
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 1, 4097, 3_000_001})
  void sum(int n) {
    float[] x = random(n);
    double expected = 0;
    for (float value : x) expected += value;
    MemorySegment input = buffers.input(x);
    MemorySegment out = buffers.doubles(1);
    for (int threads = 1; threads <= 3; threads++) {
      kernels.setThreads(threads);
      kernels.sum(input, n, out);
      assertEquals(expected, TestBuffers.toDoubles(out)[0], 1e-13 * Math.max(1, n));
    }
  }

  @Test
  void sumIsTheSameForAnyThreads() {
    int n = 1_234_567;
    MemorySegment input = buffers.input(random(n));
    MemorySegment out = buffers.doubles(1);
    kernels.setThreads(1);
    kernels.sum(input, n, out);
    double expected = TestBuffers.toDoubles(out)[0];
    kernels.setThreads(3);
    kernels.sum(input, n, out);
    assertEquals(expected, TestBuffers.toDoubles(out)[0], 0.0);
  }

  @Test
  void convertsEveryBfloat16AndEveryHalf() {
    int n = 1 << 16;
    ByteBuffer bytes = ByteBuffer.allocate(2 * n).order(ByteOrder.LITTLE_ENDIAN);
    for (int i = 0; i < n; i++) bytes.putShort((short) i);
    MemorySegment source = buffers.input(bytes.array());
    MemorySegment out = buffers.floats(n);
    kernels.convert(source, 1, out, n);
    float[] fromBf16 = TestBuffers.toFloats(out);
    for (int i = 0; i < n; i++) {
      float expected = Float.intBitsToFloat(i << 16);
      float actual = fromBf16[i];
      assertEquals(Float.floatToIntBits(expected), Float.floatToIntBits(actual));
    }
    kernels.convert(source, 2, out, n);
    float[] fromF16 = TestBuffers.toFloats(out);
    for (int i = 0; i < n; i++) {
      float expected = Float.float16ToFloat((short) i);
      float actual = fromF16[i];
      assertEquals(Float.floatToIntBits(expected), Float.floatToIntBits(actual), "half " + i);
    }
  }

  @Test
  void convertsFloatsAndDoublesAtAnyAlignment() {
    int n = 1003;
    float[] x = random(n);
    ByteBuffer bytes = ByteBuffer.allocate(1 + 8 * n).order(ByteOrder.LITTLE_ENDIAN);
    bytes.put((byte) 0);
    for (float value : x) bytes.putDouble(value + 1e-12);
    MemorySegment out = buffers.floats(n);
    kernels.convert(buffers.input(bytes.array()).asSlice(1), 3, out, n);
    assertArrayEquals(x, TestBuffers.toFloats(out));

    bytes.clear().put((byte) 0);
    for (float value : x) bytes.putFloat(value);
    kernels.convert(buffers.input(bytes.array()).asSlice(1), 0, out, n);
    assertArrayEquals(x, TestBuffers.toFloats(out));
  }
}
