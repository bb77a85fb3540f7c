package espalier.tensor;

import espalier.device.Device;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * A float32 matrix {@code [rows, cols]} in device memory, row-major, its rows {@code stride}
 * elements apart. A vector is a matrix of one row. Tensors are views: they own nothing and cost
 * nothing to slice.
 *
 * @param data device memory that starts at the first element
 */
public record Tensor(MemorySegment data, long rows, long cols, long stride) {

  public Tensor {
    if (rows < 1 || cols < 1 || stride < cols) {
      throw new IllegalArgumentException(
          "no matrix: [" + rows + ", " + cols + "] with stride " + stride);
    }
    long needed = ((rows - 1) * stride + cols) * Float.BYTES;
    if (data.byteSize() < needed) {
      throw new IllegalArgumentException(
          "[" + rows + ", " + cols + "] needs " + needed + " bytes, given " + data.byteSize());
    }
  }

  /** Newly allocated device memory of undefined content, alive as long as the device. */
  public static Tensor allocate(Device device, long rows, long cols) {
    return of(device.allocate(rows * cols * Float.BYTES), rows, cols);
  }

  /** A contiguous matrix at the start of {@code memory}. */
  public static Tensor of(MemorySegment memory, long rows, long cols) {
    return new Tensor(memory, rows, cols, cols);
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
    return new Tensor(data.asSlice(from * Float.BYTES), rows, count, stride);
  }

  /** The rows {@code [from, from + count)}. */
  public Tensor rows(long from, long count) {
    checkRange("rows", from, count, rows);
    return new Tensor(data.asSlice(from * stride * Float.BYTES), count, cols, stride);
  }

  /** The same elements as a matrix of another shape. */
  public Tensor reshape(long newRows, long newCols) {
    if (!isContiguous() || newRows * newCols != size()) {
      throw new IllegalArgumentException(
          "[" + rows + ", " + cols + "] is no [" + newRows + ", " + newCols + "]");
    }
    return of(data, newRows, newCols);
  }

  public float get(long row, long col) {
    return data.getAtIndex(ValueLayout.JAVA_FLOAT, row * stride + col);
  }

  public void set(long row, long col, float value) {
    data.setAtIndex(ValueLayout.JAVA_FLOAT, row * stride + col, value);
  }

  /** Row-major copy of {@code rows * cols} elements. */
  public float[] toArray() {
    float[] out = new float[Math.toIntExact(size())];
    for (long r = 0; r < rows; r++) {
      MemorySegment.copy(
          data,
          ValueLayout.JAVA_FLOAT,
          r * stride * Float.BYTES,
          out,
          (int) (r * cols),
          (int) cols);
    }
    return out;
  }

  /** Overwrites all elements from a row-major array of {@code rows * cols} values. */
  public void copyFrom(float... values) {
    if (values.length != size()) {
      throw new IllegalArgumentException(size() + " values needed, given " + values.length);
    }
    for (long r = 0; r < rows; r++) {
      MemorySegment.copy(
          values,
          (int) (r * cols),
          data,
          ValueLayout.JAVA_FLOAT,
          r * stride * Float.BYTES,
          (int) cols);
    }
  }

  private static void checkRange(String what, long from, long count, long limit) {
    if (from < 0 || count < 1 || from + count > limit) {
      throw new IndexOutOfBoundsException(
          what + " [" + from + ", " + (from + count) + ") of " + limit);
    }
  }
}
