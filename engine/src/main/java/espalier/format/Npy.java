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
import java.util.regex.Matcher;
import java.util.regex.Pattern;

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

  private static final byte[] MAGIC = {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y'};
  private static final Pattern DESCR = Pattern.compile("'descr'\\s*:\\s*'([<>|=]?)(\\w+)'");
  private static final Pattern FORTRAN = Pattern.compile("'fortran_order'\\s*:\\s*(True|False)");
  private static final Pattern SHAPE =
      Pattern.compile("'shape'\\s*:\\s*\\(\\s*(\\d{1,18})\\s*,\\s*(\\d{1,18})\\s*,?\\s*\\)");

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
    if (all.byteSize() < 12
        || all.asSlice(0, MAGIC.length).mismatch(MemorySegment.ofArray(MAGIC)) >= 0) {
      throw new InputException(file, "no .npy file");
    }
    int version = all.get(ValueLayout.JAVA_BYTE, 6);
    if (version < 1 || version > 3) {
      throw new InputException(file, ".npy version " + version + " is not known");
    }
    long start = version == 1 ? 10 : 12;
    long length =
        version == 1
            ? Short.toUnsignedLong(all.get(shorts(ByteOrder.LITTLE_ENDIAN), 8))
            : Integer.toUnsignedLong(all.get(ints(ByteOrder.LITTLE_ENDIAN), 8));
    if (start + length > all.byteSize()) {
      throw new InputException(file, "cut off within its header");
    }
    String header =
        new String(
            all.asSlice(start, length).toArray(ValueLayout.JAVA_BYTE), StandardCharsets.UTF_8);
    Matcher descr = find(DESCR, header, file, "its type");
    Matcher shape = find(SHAPE, header, file, "a shape of two dimensions");
    ByteOrder order = descr.group(1).equals(">") ? ByteOrder.BIG_ENDIAN : ByteOrder.LITTLE_ENDIAN;
    boolean byColumns = find(FORTRAN, header, file, "its order").group(1).equals("True");
    String type = descr.group(2);
    long rows = Long.parseLong(shape.group(1));
    long cols = Long.parseLong(shape.group(2));
    long bytes;
    try {
      bytes = Math.multiplyExact(Math.multiplyExact(rows, cols), (long) elementBytes(file, type));
    } catch (ArithmeticException e) {
      throw new InputException(file, "has an impossible shape");
    }
    MemorySegment data = all.asSlice(start + length);
    if (data.byteSize() != bytes) {
      throw new InputException(
          file, "%d bytes of data, its shape needs %d".formatted(data.byteSize(), bytes));
    }
    return new Npy(file, type, order, byColumns, rows, cols, data);
  }

  private static Matcher find(Pattern pattern, String header, Path file, String what) {
    Matcher matcher = pattern.matcher(header);
    if (!matcher.find()) {
      throw new InputException(file, "its header does not give " + what);
    }
    return matcher;
  }

  private static int elementBytes(Path file, String type) {
    return switch (type) {
      case "i1", "u1" -> 1;
      case "i2", "u2" -> 2;
      case "i4", "u4", "f4" -> 4;
      case "i8", "u8", "f8" -> 8;
      default -> throw new InputException(file, "elements of type " + type + " are not supported");
    };
  }

  public boolean isInteger() {
    return type.charAt(0) != 'f';
  }

  /**
   * An element of an integer array; unsigned 64-bit values beyond the signed range come back
   * negative.
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
      case "f4" -> Float.intBitsToFloat(data.get(ints(order), at));
      case "f8" -> (float) Double.longBitsToDouble(data.get(longs(order), at));
      default -> throw new InputException(file, "holds " + type + ", expected f4 or f8");
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
    String header =
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }".formatted(rows, cols);
    int unpadded = 10 + header.length() + 1;
    String padded = header + " ".repeat(-unpadded & 63) + "\n";
    AtomicFiles.write(
        file,
        channel -> {
          ByteBuffer start =
              ByteBuffer.allocate(10 + padded.length()).order(ByteOrder.LITTLE_ENDIAN);
          start.put(MAGIC).put((byte) 1).put((byte) 0).putShort((short) padded.length());
          start.put(padded.getBytes(StandardCharsets.US_ASCII));
          AtomicFiles.writeFully(channel, start.flip());
          ByteBuffer row = ByteBuffer.allocate(cols * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
          for (float[] line : values) {
            row.clear();
            row.asFloatBuffer().put(line, 0, cols);
            AtomicFiles.writeFully(channel, row);
          }
        });
  }
}
