package espalier.format;

import espalier.device.Device;
import espalier.tensor.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.stream.LongStream;

/**
 * A tensor in a file: its name, type and shape, and its bytes in the mapped file (little-endian,
 * with any alignment).
 *
 * @param columnMajor whether a matrix lies there column by column instead of row by row
 */
public record TensorEntry(
    Path file, String name, DType dtype, long[] shape, MemorySegment data, boolean columnMajor) {

  public TensorEntry(Path file, String name, DType dtype, long[] shape, MemorySegment data) {
    this(file, name, dtype, shape, data, false);
  }

  /** How many elements are sent to a GPU at a time. */
  private static final long STAGED_AT_ONCE = 1 << 25;

  /**
   * How many elements go through additional memory at a time if a part of a matrix is read: 16 MB
   * of float32.
   */
  private static final long PARTED_AT_ONCE = 1 << 22;

  private static final ValueLayout.OfShort SHORT =
      ValueLayout.JAVA_SHORT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  private static final ValueLayout.OfInt INT =
      ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  private static final ValueLayout.OfLong LONG =
      ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  private static final ValueLayout.OfFloat FLOAT =
      ValueLayout.JAVA_FLOAT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);
  private static final ValueLayout.OfDouble DOUBLE =
      ValueLayout.JAVA_DOUBLE_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

  /** The number of elements, which is the product of the shape. */
  public long size() {
    long size = 1;
    for (long n : shape) {
      size *= n;
    }
    return size;
  }

  /**
   * One element, in the order of the file. For callers that look at a few elements; whole tensors
   * are converted instead.
   */
  public double value(long index) {
    return switch (dtype) {
      case F32 -> data.get(FLOAT, index * Float.BYTES);
      case F64 -> data.get(DOUBLE, index * Double.BYTES);
      case F16 -> Float.float16ToFloat(data.get(SHORT, index * Short.BYTES));
      case BF16 -> Float.intBitsToFloat(data.get(SHORT, index * Short.BYTES) << Short.SIZE);
      default -> throw new IllegalStateException(name + " holds no real numbers: " + dtype);
    };
  }

  /** One element of a tensor of integers. */
  public long integer(long index) {
    return switch (dtype) {
      case I64 -> data.get(LONG, index * Long.BYTES);
      case I32 -> data.get(INT, index * Integer.BYTES);
      case I16 -> data.get(SHORT, index * Short.BYTES);
      case I8 -> data.get(ValueLayout.JAVA_BYTE, index);
      default -> throw new InputException(file, "tensor " + name + " holds no integers: " + dtype);
    };
  }

  /**
   * Whether another tensor has the same shape and values. If the types are equal the bytes are
   * compared.
   */
  boolean holdsTheSameAs(TensorEntry other) {
    if (!Arrays.equals(shape, other.shape)) {
      return false;
    }
    if (dtype == other.dtype) {
      return data.mismatch(other.data) == -1;
    }
    return dtype.isFloat()
        && other.dtype.isFloat()
        && LongStream.range(0, size()).allMatch(i -> value(i) == other.value(i));
  }

  /** Refuses any other shape, and types that do not hold real numbers. */
  public TensorEntry expect(long... expected) {
    if (!Arrays.equals(shape, expected)) {
      throw new InputException(
          file,
          "tensor %s has shape %s, expected %s"
              .formatted(name, Arrays.toString(shape), Arrays.toString(expected)));
    }
    if (!dtype.isFloat()) {
      throw new InputException(
          file, "tensor %s has dtype %s, expected F32, BF16, F16 or F64".formatted(name, dtype));
    }
    return this;
  }

  /**
   * Converts to the target's type into device memory, in one pass over the bytes and in their
   * order. The target's rows may be apart.
   */
  public void copyTo(Device device, Tensor target) {
    if (!target.isContiguous()) {
      copyTo(device, false, MemorySegment.NULL, target);
      return;
    }
    requireSize(target);
    copyTo(device, 0, target);
  }

  /**
   * Converts some of the elements, from element {@code from} on, like {@link #copyTo} does with
   * all.
   */
  public void copyTo(Device device, long from, Tensor target) {
    for (long at = 0; at < target.size(); at += STAGED_AT_ONCE) {
      long n = Math.min(STAGED_AT_ONCE, target.size() - at);
      MemorySegment part = data.asSlice((from + at) * dtype.bytes(), n * dtype.bytes());
      MemorySegment to = target.data().asSlice(at * target.type().bytes());
      device.kernels().convert(device.stage(part), kernelDtype(), to, n, target.type());
    }
  }

  /**
   * Converts a matrix on its way: {@code target[r, c] = rowScale[r] * [r, c]}, rounded once. The
   * bytes are read in their order.
   *
   * @param transposed whether the bytes hold the columns of {@code target} one after another
   * @param rowScale {@code [rows of target]} in device memory, NULL for 1
   */
  public void copyTo(Device device, boolean transposed, MemorySegment rowScale, Tensor target) {
    requireSize(target);
    if (transposed) {
      convertMatrix(device, data, true, rowScale, target);
      return;
    }
    long step = Math.clamp(STAGED_AT_ONCE / target.cols(), 1, target.rows());
    for (long row = 0; row < target.rows(); row += step) {
      Tensor part = target.rows(row, Math.min(step, target.rows() - row));
      long bytes = dtype.bytes();
      MemorySegment source = data.asSlice(row * target.cols() * bytes, part.size() * bytes);
      MemorySegment scale =
          rowScale.equals(MemorySegment.NULL) ? rowScale : rowScale.asSlice(row * Float.BYTES);
      convertMatrix(device, source, false, scale, part);
    }
  }

  /**
   * Like {@link #copyTo(Device, boolean, MemorySegment, Tensor)}, but for a part of the matrix: the
   * rows from {@code row} on and the columns from {@code col} on, as many as {@code target} has.
   *
   * @param rows of the whole matrix
   * @param cols of the whole matrix
   * @param rowScale {@code [rows]}
   */
  public void copyPartTo(
      Device device,
      boolean transposed,
      MemorySegment rowScale,
      long rows,
      long cols,
      long row,
      long col,
      Tensor target) {
    // A line of the file is a row of the matrix, or a column.
    long length = transposed ? rows : cols;
    long first = transposed ? col : row;
    long lines = transposed ? target.cols() : target.rows();
    long from = transposed ? row : col; // of what is wanted in each line
    long wanted = transposed ? target.rows() : target.cols();
    long bytes = dtype.bytes();
    long step = Math.clamp(PARTED_AT_ONCE / wanted, 1, lines);
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment memory = arena.allocate(step * wanted * bytes, 64);
      for (long line = 0; line < lines; line += step) {
        long n = Math.min(step, lines - line);
        for (long i = 0; i < n; i++) {
          long at = (first + line + i) * length + from;
          MemorySegment.copy(data, at * bytes, memory, i * wanted * bytes, wanted * bytes);
        }
        Tensor part = transposed ? target.columns(line, n) : target.rows(line, n);
        MemorySegment scale =
            rowScale.equals(MemorySegment.NULL)
                ? rowScale
                : rowScale.asSlice((row + (transposed ? 0 : line)) * Float.BYTES);
        MemorySegment source = memory.asSlice(0, n * wanted * bytes);
        convertMatrix(device, source, transposed, scale, part);
      }
    }
  }

  private void requireSize(Tensor target) {
    if (target.size() != size()) {
      throw new IllegalArgumentException(name + ": " + size() + " elements for " + target.size());
    }
  }

  private void convertMatrix(
      Device device,
      MemorySegment source,
      boolean transposed,
      MemorySegment rowScale,
      Tensor target) {
    device
        .kernels()
        .convertMatrix(
            device.stage(source),
            kernelDtype(),
            transposed,
            rowScale,
            target.data(),
            target.stride(),
            target.rows(),
            target.cols(),
            target.type());
  }

  /** The type's number in esp_dtype. */
  private int kernelDtype() {
    return switch (dtype) {
      case F32 -> 0;
      case BF16 -> 1;
      case F16 -> 2;
      case F64 -> 3;
      default -> throw new IllegalStateException(name + " holds no real numbers: " + dtype);
    };
  }
}
