package espalier.format;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Locale;

/**
 * A NumPy array file of two dimensions.
 *
 * <p>Format: numpy.lib.format, versions 1 to 3.
 *
 * @param type NumPy's type code without the byte order, such as {@code i4} or {@code f8}
 * @param byColumns whether columns lie one after another (Fortran order) instead of rows
 * @param data the elements, in mapped memory that lives until nothing refers to it
 */
public record Npy(
    Path file,
    String type,
    ByteOrder order,
    boolean byColumns,
    long rows,
    long cols,
    MemorySegment data) {

  public static Npy open(Path file) {
    if (!Files.isRegularFile(file)) {
      throw new InputException(file, "no such file");
    }
    try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
      return read(
          file, channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size(), Arena.ofAuto()));
    } catch (IOException e) {
      throw new InputException(file, "cannot be read");
    }
  }

  private static Npy read(Path file, MemorySegment all) {
    NpyHeader header = NpyHeader.read(all, what -> new InputException(file, what));
    if (header.shape().length != 2) {
      throw new InputException(file, "its header does not give a shape of two dimensions");
    }
    return new Npy(
        file,
        header.type(),
        header.order(),
        header.byColumns(),
        header.shape()[0],
        header.shape()[1],
        header.data());
  }

  public boolean isInteger() {
    return type.charAt(0) != 'f';
  }

  /**
   * An element of an integer array. Unsigned 64-bit values beyond the signed range are returned as
   * negative numbers.
   */
  public long integer(long row, long col) {
    long at = offset(row, col);
    return switch (type) {
      case "i1" -> data.get(ValueLayout.JAVA_BYTE, at);
      case "u1" -> Byte.toUnsignedLong(data.get(ValueLayout.JAVA_BYTE, at));
      case "i2" -> data.get(shorts(order), at);
      case "u2" -> Short.toUnsignedLong(data.get(shorts(order), at));
      case "i4" -> data.get(ints(order), at);
      case "u4" -> Integer.toUnsignedLong(data.get(ints(order), at));
      case "i8", "u8" -> data.get(longs(order), at);
      default -> throw new IllegalStateException(file + " holds " + type);
    };
  }

  /** An element of a floating-point array. */
  public float real(long row, long col) {
    long at = offset(row, col);
    return switch (type) {
      case "f2" -> Float.float16ToFloat(data.get(shorts(order), at));
      case "f4" -> Float.intBitsToFloat(data.get(ints(order), at));
      case "f8" -> (float) Double.longBitsToDouble(data.get(longs(order), at));
      default -> throw new InputException(file, "holds " + type + ", expected f2, f4 or f8");
    };
  }

  private long offset(long row, long col) {
    return (byColumns ? col * rows + row : row * cols + col) * (type.charAt(1) - '0');
  }

  private static ValueLayout.OfShort shorts(ByteOrder order) {
    return ValueLayout.JAVA_SHORT_UNALIGNED.withOrder(order);
  }

  private static ValueLayout.OfInt ints(ByteOrder order) {
    return ValueLayout.JAVA_INT_UNALIGNED.withOrder(order);
  }

  private static ValueLayout.OfLong longs(ByteOrder order) {
    return ValueLayout.JAVA_LONG_UNALIGNED.withOrder(order);
  }

  /** Writes float32 rows atomically. */
  public static void write(Path file, long rows, int cols, float[][] values) {
    AtomicFiles.write(
        file,
        channel -> {
          AtomicFiles.writeFully(channel, header("<f4", rows, cols));
          ByteBuffer row = ByteBuffer.allocate(cols * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
          for (float[] line : values) {
            row.clear();
            row.asFloatBuffer().put(line, 0, cols);
            AtomicFiles.writeFully(channel, row);
          }
        });
  }

  /**
   * Writes int32 rows atomically.
   *
   * @param values {@code [rows, cols]} in this machine's byte order, which is little-endian
   */
  public static void write(Path file, long rows, int cols, MemorySegment values) {
    AtomicFiles.write(
        file,
        channel -> {
          AtomicFiles.writeFully(channel, header("<i4", rows, cols));
          AtomicFiles.writeFully(channel, values);
        });
  }

  private static ByteBuffer header(String type, long rows, int cols) {
    String header =
        String.format(
            Locale.ROOT,
            "{'descr': '%s', 'fortran_order': False, 'shape': (%d, %d), }",
            type,
            rows,
            cols);
    int unpadded = 10 + header.length() + 1;
    String padded = header + " ".repeat(-unpadded & 63) + "\n";
    ByteBuffer start = ByteBuffer.allocate(10 + padded.length()).order(ByteOrder.LITTLE_ENDIAN);
    start.put(NpyHeader.MAGIC).put((byte) 1).put((byte) 0).putShort((short) padded.length());
    return start.put(padded.getBytes(StandardCharsets.US_ASCII)).flip();
  }
}
