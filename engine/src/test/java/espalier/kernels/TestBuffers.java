package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;

/**
 * Native memory for kernel tests. Every buffer lies between guard zones full of NaN and is aligned
 * to its element only, unless asked for more; outputs start as NaN. {@link #verify} finds writes
 * outside a buffer and writes to inputs; a read outside brings NaN into the result.
 */
final class TestBuffers implements AutoCloseable {

  private static final long GUARD_BYTES = 192;
  private static final byte POISON = -1; // NaN as float or double, -1 as an integer

  private int alignment = 1;
  private final TestMemory memory;
  private final List<Buffer> buffers = new ArrayList<>();

  /**
   * @param original the content that must not change, or null for an output
   */
  private record Buffer(MemorySegment guarded, MemorySegment content, byte[] original) {}

  TestBuffers(Device device) {
    memory = TestMemory.of(device);
  }

  MemorySegment input(float... values) {
    return input(MemorySegment.ofArray(values), Float.BYTES);
  }

  MemorySegment input(int... values) {
    return input(MemorySegment.ofArray(values), Integer.BYTES);
  }

  MemorySegment input(byte... values) {
    return input(MemorySegment.ofArray(values), Byte.BYTES);
  }

  MemorySegment input(long... values) {
    return input(MemorySegment.ofArray(values), Long.BYTES);
  }

  private MemorySegment input(MemorySegment values, int elementBytes) {
    MemorySegment content = allocate(values.byteSize(), elementBytes);
    Transfer.write(content, values);
    Buffer last = buffers.removeLast();
    buffers.add(new Buffer(last.guarded, content, values.toArray(ValueLayout.JAVA_BYTE)));
    return content;
  }

  /** Floats that a kernel writes; NaN until then. */
  MemorySegment floats(int count) {
    return allocate((long) count * Float.BYTES, Float.BYTES);
  }

  /** Activations that a kernel reads, rounded to their type. */
  MemorySegment input(ElementType type, float... values) {
    return switch (type) {
      case F32 -> input(values);
      case BF16 -> input(MemorySegment.ofArray(Bfloat16.encode(values)), Short.BYTES);
    };
  }

  /** Activations that a kernel writes; NaN until then. */
  MemorySegment output(ElementType type, int count) {
    return allocate((long) count * type.bytes(), type.bytes());
  }

  /** Activations that a kernel changes in place, rounded to their type. */
  MemorySegment changing(ElementType type, float... values) {
    MemorySegment buffer = output(type, values.length);
    Transfer.write(
        buffer,
        type == ElementType.F32
            ? MemorySegment.ofArray(values)
            : MemorySegment.ofArray(Bfloat16.encode(values)));
    return buffer;
  }

  static float[] toFloats(ElementType type, MemorySegment buffer) {
    return switch (type) {
      case F32 -> toFloats(buffer);
      case BF16 ->
          Bfloat16.decode(
              (buffer.isNative() ? Transfer.onHost(buffer) : buffer)
                  .toArray(ValueLayout.JAVA_SHORT_UNALIGNED));
    };
  }

  /**
   * Buffers from now on are aligned to 16 bytes, as the rows of a model are, so that kernels may
   * read 16 bytes at a time; or to their element only.
   */
  void alignTo16(boolean aligned) {
    alignment = aligned ? 16 : 1;
  }

  MemorySegment ints(int count) {
    return allocate((long) count * Integer.BYTES, Integer.BYTES);
  }

  MemorySegment longs(int count) {
    return allocate((long) count * Long.BYTES, Long.BYTES);
  }

  MemorySegment doubles(int count) {
    return allocate((long) count * Double.BYTES, Double.BYTES);
  }

  /** Floats that a kernel adds to or changes in place. */
  MemorySegment changing(float... values) {
    MemorySegment buffer = floats(values.length);
    Transfer.write(buffer, values);
    return buffer;
  }

  static float[] toFloats(MemorySegment buffer) {
    return (buffer.isNative() ? Transfer.onHost(buffer) : buffer)
        .toArray(ValueLayout.JAVA_FLOAT_UNALIGNED);
  }

  static int[] toInts(MemorySegment buffer) {
    return Transfer.onHost(buffer).toArray(ValueLayout.JAVA_INT_UNALIGNED);
  }

  static long[] toLongs(MemorySegment buffer) {
    return Transfer.onHost(buffer).toArray(ValueLayout.JAVA_LONG_UNALIGNED);
  }

  static double[] toDoubles(MemorySegment buffer) {
    return Transfer.onHost(buffer).toArray(ValueLayout.JAVA_DOUBLE_UNALIGNED);
  }

  void verify() {
    for (Buffer buffer : buffers) {
      long start = buffer.content.address() - buffer.guarded.address();
      long end = start + buffer.content.byteSize();
      MemorySegment guarded = Transfer.onHost(buffer.guarded);
      verifyGuard(guarded.asSlice(0, start), -start, end - start);
      verifyGuard(guarded.asSlice(end), end - start, end - start);
      if (buffer.original != null) {
        MemorySegment original = MemorySegment.ofArray(buffer.original);
        assertEquals(
            -1, original.mismatch(guarded.asSlice(start, end - start)), "an input was written to");
      }
    }
  }

  /**
   * @param at where the guard begins, from the buffer's first byte on
   */
  private static void verifyGuard(MemorySegment guard, long at, long bufferBytes) {
    for (long i = 0; i < guard.byteSize(); i++) {
      long place = at + i;
      assertEquals(
          POISON,
          guard.get(ValueLayout.JAVA_BYTE, i),
          () -> "written outside a buffer of " + bufferBytes + " at byte " + place);
    }
  }

  @Override
  public void close() {
    memory.close();
  }

  private MemorySegment allocate(long bytes, int elementBytes) {
    int offset = Math.max(elementBytes, alignment);
    MemorySegment guarded = memory.allocate(2 * GUARD_BYTES + offset + bytes);
    Transfer.fill(guarded, POISON);
    MemorySegment content = guarded.asSlice(GUARD_BYTES + offset, bytes);
    buffers.add(new Buffer(guarded, content, null));
    return content;
  }
}
