package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;

import espalier.device.ElementType;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ConvertMatrixTest extends KernelTest {

  private static final int F32 = 0;
  private static final int BF16 = 1;
  private static final int F16 = 2;
  private static final int F64 = 3;

  /** The bytes of a file at an odd address, and the numbers that they stand for. */
  private record Source(byte[] bytes, double[] values) {}

  private Source source(int dtype, int count) {
    float[] random = random(count);
    double[] values = new double[count];
    ByteBuffer bytes = ByteBuffer.allocate(1 + 8 * count).order(ByteOrder.LITTLE_ENDIAN);
    bytes.put((byte) 0);
    for (int i = 0; i < count; i++) {
      switch (dtype) {
        case F32 -> {
          bytes.putFloat(random[i]);
          values[i] = random[i];
        }
        case BF16 -> {
          short half = (short) (Float.floatToRawIntBits(random[i]) >> 16);
          bytes.putShort(half);
          values[i] = Float.intBitsToFloat(half << 16);
        }
        case F16 -> {
          short half = Float.floatToFloat16(random[i]);
          bytes.putShort(half);
          values[i] = Float.float16ToFloat(half);
        }
        default -> {
          values[i] = i % 3 == 0 ? besideATie(random[i], i) : random[i] + 1e-9 * i;
          bytes.putDouble(values[i]);
        }
      }
    }
    return new Source(bytes.array(), values);
  }

  /** Between two numbers of bfloat16, so near the middle that a float would be in it. */
  private static double besideATie(float value, int i) {
    int between = Float.floatToRawIntBits(value) & 0xffff0000 | 0x8000;
    return Float.intBitsToFloat(between) * (1 + (i % 2 == 0 ? 0x1p-40 : -0x1p-40));
  }

  private float[] run(
      ElementType to, Source source, int dtype, boolean transposed, float[] scale, int r, int c) {
    int ldDst = c + 3;
    MemorySegment dst = buffers.output(to, r * ldDst);
    kernels.convertMatrix(
        buffers.input(source.bytes).asSlice(1),
        dtype,
        transposed,
        scale == null ? NULL : buffers.input(scale),
        dst,
        ldDst,
        r,
        c,
        to);
    return TestBuffers.toFloats(to, narrow(to, dst, c, ldDst));
  }

  private static float rounded(ElementType type, double value) {
    return switch (type) {
      case F32 -> (float) value;
      case BF16 -> (float) Bfloat16.round(value);
    };
  }

  /** Tiles are 32 x 32, pieces 4096 rows. */
  @ParameterizedTest
  @CsvSource({
    "F32, 0, 1, 1",
    "F32, 0, 33, 70",
    "F32, 0, 4100, 3",
    "F32, 0, 5, 300",
    "F32, 1, 31, 65",
    "F32, 2, 64, 32",
    "F32, 3, 40, 37",
    "F32, 3, 3, 260",
    "F32, 0, 0, 4",
    "BF16, 0, 33, 70",
    "BF16, 1, 31, 65",
    "BF16, 2, 64, 32",
    "BF16, 3, 40, 37",
    "BF16, 3, 3, 260"
  })
  void everyElementIsRoundedOnce(ElementType to, int dtype, int rows, int cols) {
    Source source = source(dtype, rows * cols);
    float[] scale = random(rows);
    float[] straight = new float[rows * cols];
    float[] scaled = new float[rows * cols];
    float[] turned = new float[rows * cols];
    float[] turnedAndScaled = new float[rows * cols];
    for (int r = 0; r < rows; r++) {
      for (int c = 0; c < cols; c++) {
        double value = source.values[r * cols + c];
        straight[r * cols + c] = rounded(to, value);
        scaled[r * cols + c] = rounded(to, value * scale[r]);
        double other = source.values[c * rows + r];
        turned[r * cols + c] = rounded(to, other);
        turnedAndScaled[r * cols + c] = rounded(to, other * scale[r]);
      }
    }
    assertArrayEquals(straight, run(to, source, dtype, false, null, rows, cols));
    assertArrayEquals(scaled, run(to, source, dtype, false, scale, rows, cols));
    assertArrayEquals(turned, run(to, source, dtype, true, null, rows, cols));
    assertArrayEquals(turnedAndScaled, run(to, source, dtype, true, scale, rows, cols));
  }

  @Test
  void isTheSameForAnyThreads() {
    Source source = source(F64, 900 * 330);
    float[] scale = random(900);
    assertSameForAnyThreads(() -> run(ElementType.F32, source, F64, true, scale, 900, 330));
    assertSameForAnyThreads(() -> run(ElementType.F32, source, F64, false, scale, 900, 330));
  }
}
