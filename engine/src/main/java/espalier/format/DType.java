package espalier.format;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;

/** Element types of tensors in files, under the names that safetensors gives them. */
public enum DType {
  F64(8),
  F32(4),
  F16(2),
  BF16(2),
  I64(8),
  I32(4),
  I16(2),
  I8(1),
  U64(8),
  U32(4),
  U16(2),
  U8(1),
  BOOL(1);

  private static final ValueLayout.OfShort SHORT =
      ValueLayout.JAVA_SHORT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  private static final ValueLayout.OfFloat FLOAT =
      ValueLayout.JAVA_FLOAT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  private static final ValueLayout.OfDouble DOUBLE =
      ValueLayout.JAVA_DOUBLE_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

  private final int bytes;

  DType(int bytes) {
    this.bytes = bytes;
  }

  public int bytes() {
    return bytes;
  }

  /**
   * Writes an element, rounded to nearest, ties to even.
   *
   * @return the value that is stored
   */
  public float store(MemorySegment target, long index, float value) {
    switch (this) {
      case F32 -> target.set(FLOAT, index * Float.BYTES, value);
      case F64 -> target.set(DOUBLE, index * Double.BYTES, value);
      case F16 -> {
        short half = Float.floatToFloat16(value);
        target.set(SHORT, index * Short.BYTES, half);
        return Float.float16ToFloat(half);
      }
      case BF16 -> {
        int bits = Float.floatToIntBits(value);
        int rounded = Float.isNaN(value) ? bits : bits + 0x7FFF + (bits >>> 16 & 1);
        target.set(SHORT, index * Short.BYTES, (short) (rounded >>> 16));
        return Float.intBitsToFloat(rounded & 0xFFFF0000);
      }
      default -> throw new IllegalStateException(this + " holds no real numbers");
    }
    return value;
  }

  /** Whether the engine converts it to float32. */
  public boolean isFloat() {
    return this == F64 || this == F32 || this == F16 || this == BF16;
  }
}
