package espalier.format;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.function.Function;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The header of a NumPy array (numpy.lib.format, versions 1 to 3) and its data.
 *
 * @param type NumPy's type code without the byte order, such as {@code i4} or {@code f8}
 * @param byColumns whether columns lie one after another (Fortran order) instead of rows
 * @param data the elements, exactly as many bytes as the shape needs
 */
record NpyHeader(
    String type, ByteOrder order, boolean byColumns, long[] shape, MemorySegment data) {

  static final byte[] MAGIC = {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y'};
  private static final Pattern DESCR = Pattern.compile("'descr'\\s*:\\s*'([<>|=]?)(\\w+)'");
  private static final Pattern FORTRAN = Pattern.compile("'fortran_order'\\s*:\\s*(True|False)");
  private static final Pattern SHAPE =
      Pattern.compile(
          "'shape'\\s*:\\s*\\(((?:\\s*\\d{1,18}\\s*(?:,\\s*\\d{1,18}\\s*){0,7},?)?)\\s*\\)");
  private static final int LONGEST = 1 << 16;

  /**
   * Reads a header.
   *
   * @param fault makes an exception of a description of what is wrong
   */
  static NpyHeader read(MemorySegment all, Function<String, InputException> fault) {
    if (all.byteSize() < 12
        || all.asSlice(0, MAGIC.length).mismatch(MemorySegment.ofArray(MAGIC)) >= 0) {
      throw fault.apply("no .npy file");
    }
    int version = all.get(ValueLayout.JAVA_BYTE, 6);
    if (version < 1 || version > 3) {
      throw fault.apply(".npy version " + version + " is not known");
    }
    long start = version == 1 ? 10 : 12;
    long length =
        version == 1
            ? Short.toUnsignedLong(all.get(little(ValueLayout.JAVA_SHORT_UNALIGNED), 8))
            : Integer.toUnsignedLong(all.get(little(ValueLayout.JAVA_INT_UNALIGNED), 8));
    if (length > LONGEST || start + length > all.byteSize()) {
      throw fault.apply("cut off within its header");
    }
    String header =
        new String(
            all.asSlice(start, length).toArray(ValueLayout.JAVA_BYTE), StandardCharsets.UTF_8);
    Matcher descr = find(DESCR, header, "its type", fault);
    ByteOrder order = descr.group(1).equals(">") ? ByteOrder.BIG_ENDIAN : ByteOrder.LITTLE_ENDIAN;
    boolean byColumns = find(FORTRAN, header, "its order", fault).group(1).equals("True");
    long[] shape = shape(find(SHAPE, header, "a shape", fault).group(1));
    MemorySegment data = all.asSlice(start + length);
    long bytes = bytes(shape, elementBytes(descr.group(2), fault), fault);
    if (data.byteSize() != bytes) {
      throw fault.apply("%d bytes of data, its shape needs %d".formatted(data.byteSize(), bytes));
    }
    return new NpyHeader(descr.group(2), order, byColumns, shape, data);
  }

  private static ValueLayout.OfShort little(ValueLayout.OfShort layout) {
    return layout.withOrder(ByteOrder.LITTLE_ENDIAN);
  }

  private static ValueLayout.OfInt little(ValueLayout.OfInt layout) {
    return layout.withOrder(ByteOrder.LITTLE_ENDIAN);
  }

  private static long[] shape(String text) {
    String[] sizes = text.strip().isEmpty() ? new String[0] : text.split(",");
    long[] shape = new long[sizes.length];
    int dims = 0;
    for (String size : sizes) {
      if (!size.isBlank()) {
        shape[dims++] = Long.parseLong(size.strip());
      }
    }
    return Arrays.copyOf(shape, dims);
  }

  private static long bytes(
      long[] shape, int elementBytes, Function<String, InputException> fault) {
    try {
      long bytes = elementBytes;
      for (long size : shape) {
        bytes = Math.multiplyExact(bytes, size);
      }
      return bytes;
    } catch (ArithmeticException e) {
      throw fault.apply("has an impossible shape");
    }
  }

  private static Matcher find(
      Pattern pattern, String header, String what, Function<String, InputException> fault) {
    Matcher matcher = pattern.matcher(header);
    if (!matcher.find()) {
      throw fault.apply("its header does not give " + what);
    }
    return matcher;
  }

  private static int elementBytes(String type, Function<String, InputException> fault) {
    return switch (type) {
      case "i1", "u1" -> 1;
      case "i2", "u2", "f2" -> 2;
      case "i4", "u4", "f4" -> 4;
      case "i8", "u8", "f8" -> 8;
      default -> throw fault.apply("elements of type " + type + " are not supported");
    };
  }
}
