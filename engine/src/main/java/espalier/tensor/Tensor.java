package espalier.tensor;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;

/**
 * A matrix {@code [rows, cols]} in device memory, row-major, its rows {@code stride} elements
 * apart. A vector is a matrix of one row. Tensors are views: they own nothing and cost nothing to
 * slice.
 *
 * @param data device memory that starts at the first element
 */
public record Tensor(MemorySegment data, long rows, long cols, long stride, ElementType type) {

  public Tensor {
    if (rows < 1 || cols < 1 || stride < cols) {
      throw new IllegalArgumentException(
          "no matrix: [" + rows + ", " + cols + "] with stride " + stride);
    }
    long needed = ((rows - 1) * stride + cols) * type.bytes();
    if (data.byteSize() < needed) {
      throw new IllegalArgumentException(
          "[" + rows + ", " + cols + "] needs " + needed + " bytes, given " + data.byteSize());
    }
  }

  /** A newly allocated float32 matrix of undefined content, which lives as long as the device. */
  public static Tensor allocate(Device device, long rows, long cols) {
    return allocate(device, rows, cols, ElementType.F32);
  }

  public static Tensor allocate(Device device, long rows, long cols, ElementType type) {
    return of(device.allocate(rows * cols * type.bytes()), rows, cols, type);
  }

  /** A contiguous float32 matrix at the start of {@code memory}. */
  public static Tensor of(MemorySegment memory, long rows, long cols) {
    return of(memory, rows, cols, ElementType.F32);
  }

  public static Tensor of(MemorySegment memory, long rows, long cols, ElementType type) {
    return new Tensor(memory, rows, cols, cols, type);
  }

  public long size() {
    return rows * cols;
  }

  public boolean isContiguous() {
    return stride == cols || rows == 1;
  }

  /** The columns {@code [from, from + count)} of every row. */
  public Tensor columns(long from, long count) {
    checkRange("columns", from, count, cols);
    return new Tensor(data.asSlice(from * type.bytes()), rows, count, stride, type);
  }

  /** The rows {@code [from, from + count)}. */
  public Tensor rows(long from, long count) {
    checkRange("rows", from, count, rows);
    return new Tensor(data.asSlice(from * stride * type.bytes()), count, cols, stride, type);
  }

  /** The same elements as a matrix of another shape. */
  public Tensor reshape(long newRows, long newCols) {
    if (!isContiguous() || newRows * newCols != size()) {
      throw new IllegalArgumentException(
          "[" + rows + ", " + cols + "] is no [" + newRows + ", " + newCols + "]");
    }
    return of(data, newRows, newCols, type);
  }

  /** The bytes from the first element to the last. */
  public MemorySegment bytes() {
    return data.asSlice(0, ((rows - 1) * stride + cols) * type.bytes());
  }

  /** One element, brought from the device: for the few that are looked at singly. */
  public float get(long row, long col) {
    return rows(row, 1).columns(col, 1).toArray()[0];
  }

  public void set(long row, long col, float value) {
    rows(row, 1).columns(col, 1).copyFrom(value);
  }

  /** Row-major copy of {@code rows * cols} elements on the host. */
  public float[] toArray() {
    MemorySegment host = Transfer.onHost(bytes());
    float[] out = new float[Math.toIntExact(size())];
    for (long r = 0; r < rows; r++) {
      int at = (int) (r * cols);
      if (type == ElementType.F32) {
        MemorySegment.copy(
            host, ValueLayout.JAVA_FLOAT, r * stride * Float.BYTES, out, at, (int) cols);
      } else {
        for (int c = 0; c < cols; c++) {
          int bits = host.getAtIndex(ValueLayout.JAVA_SHORT, r * stride + c);
          out[at + c] = Float.intBitsToFloat(bits << Short.SIZE);
        }
      }
    }
    return out;
  }

  /** Overwrites all elements from a row-major array of {@code rows * cols} values. */
  public void copyFrom(float... values) {
    if (values.length != size()) {
      throw new IllegalArgumentException(size() + " values needed, given " + values.length);
    }
    if (type != ElementType.F32) {
      throw new IllegalStateException("values are rounded to " + type + " by the device only");
    }
    if (isContiguous()) {
      Transfer.write(data, values);
      return;
    }
    for (int r = 0; r < rows; r++) {
      rows(r, 1).copyFrom(Arrays.copyOfRange(values, r * (int) cols, (r + 1) * (int) cols));
    }
  }

  private static void checkRange(String what, long from, long count, long limit) {
    if (from < 0 || count < 1 || from + count > limit) {
      throw new IndexOutOfBoundsException(
          what + " [" + from + ", " + (from + count) + ") of " + limit);
    }
  }
}
