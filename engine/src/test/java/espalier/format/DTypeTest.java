package espalier.format;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class DTypeTest {

  /** bfloat16 keeps 8 bits of a number, float16 11. */
  @ParameterizedTest
  @CsvSource({
    "BF16, 0x1.00p0, 0x1.00p0",
    "BF16, 0x1.01p0, 0x1.00p0", // a tie: to even
    "BF16, 0x1.03p0, 0x1.04p0", // a tie: to even
    "BF16, 0x1.010002p0, 0x1.02p0",
    "BF16, -0x1.03p0, -0x1.04p0",
    "BF16, 0x1.ffp0, 0x1p1",
    "BF16, 0x1.fffffep127, Infinity",
    "BF16, NaN, NaN",
    "BF16, 0x1p-149, 0x0p0",
    "F16, 0x1.002p0, 0x1.000p0", // a tie: to even
    "F16, 0x1.006p0, 0x1.008p0", // a tie: to even
    "F16, 65504, 65504",
    "F16, 65520, Infinity",
    "F32, 0x1.000002p0, 0x1.000002p0",
    "F64, 0x1.000002p0, 0x1.000002p0"
  })
  void storesTheNearest(DType dtype, float value, float stored) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment data = arena.allocate(3L * dtype.bytes());
      assertEquals(stored, dtype.store(data, 1, value));
      TensorEntry entry = new TensorEntry(Path.of("x"), "x", dtype, new long[] {3}, data);
      assertEquals(stored, entry.value(1));
      assertEquals(0, entry.value(0));
      assertEquals(0, entry.value(2));
    }
  }

  @Test
  void everyBfloat16IsStoredAsItIs() {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment data = arena.allocate(Short.BYTES);
      for (int bits = 0; bits < 1 << 16; bits++) {
        float value = Float.intBitsToFloat(bits << 16);
        assertEquals(value, DType.BF16.store(data, 0, value));
      }
    }
  }
}
