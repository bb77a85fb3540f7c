package espalier.lora;

import espalier.device.Device;
import espalier.format.AtomicFiles;
import espalier.format.DType;
import espalier.format.InputException;
import espalier.format.PeftAdapter;
import espalier.format.TensorEntry;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.channels.FileChannel;

/**
 * A linear layer's weight with its update added, W + s B A (Hu et al. 2021, 4.1): computed in
 * float32, a few rows at a time, then rounded to the type that files have.
 */
public final class MergedWeight {

  private static final long ELEMENTS = 1L << 20;

  private final TensorEntry weight;
  private final PeftAdapter.Layer update;
  private final double scale;
  private final boolean transposed;
  private double squaredUpdate;
  private double squaredLoss;

  /**
   * @param weight {@code [out, in]}
   * @param transposed the weight is {@code [in, out]}, as GPT-2's Conv1D has it
   */
  public MergedWeight(
      TensorEntry weight, PeftAdapter.Layer update, double scale, boolean transposed) {
    this.weight = weight;
    this.update = update;
    this.scale = scale;
    this.transposed = transposed;
    weight.expect(weight.shape());
    if (weight.shape().length != 2) {
      throw new InputException(weight.file(), "tensor " + weight.name() + " is no matrix");
    }
    update.a().expect(update.rank(), weight.shape()[transposed ? 0 : 1]);
    update.b().expect(weight.shape()[transposed ? 1 : 0], update.rank());
  }

  /** Norm of s B A, once it has been written. */
  public double updateNorm() {
    return Math.sqrt(squaredUpdate);
  }

  /** Norm of what rounding changed, once it has been written. */
  public double lossNorm() {
    return Math.sqrt(squaredLoss);
  }

  /** Writes the sum, row-major. */
  public void writeTo(FileChannel channel, Device device, DType dtype) throws IOException {
    long rows = weight.shape()[0];
    long cols = weight.shape()[1];
    long step = Math.clamp(ELEMENTS / cols, 1, rows);
    try (Arena arena = Arena.ofConfined()) {
      Tensor a = read(arena, device, update.a());
      Tensor b = read(arena, device, update.b());
      Tensor w = allocate(arena, step, cols);
      Tensor delta = allocate(arena, step, cols);
      MemorySegment out = arena.allocate(step * cols * dtype.bytes());
      for (long row = 0; row < rows; row += step) {
        long n = Math.min(step, rows - row);
        weight.copyTo(device, row * cols, w.rows(0, n));
        delta(device, a, b, row, delta.rows(0, n));
        float[] weights = w.rows(0, n).toArray();
        float[] deltas = delta.rows(0, n).toArray();
        for (int i = 0; i < weights.length; i++) {
          add(weights[i], deltas[i], dtype, out, i);
        }
        AtomicFiles.writeFully(channel, out.asSlice(0, n * cols * dtype.bytes()));
      }
    }
  }

  /** Rows of s B A, or of its transpose. */
  private void delta(Device device, Tensor a, Tensor b, long row, Tensor delta) {
    Tensor left = transposed ? a.columns(row, delta.rows()) : b.rows(row, delta.rows());
    Tensor right = transposed ? b : a;
    device
        .kernels()
        .gemm(
            transposed,
            transposed,
            delta.rows(),
            delta.cols(),
            update.rank(),
            (float) scale,
            left.data(),
            left.stride(),
            right.data(),
            right.stride(),
            0,
            delta.data(),
            delta.stride());
  }

  private void add(float w, float delta, DType dtype, MemorySegment out, long index) {
    float stored = dtype.store(out, index, w + delta);
    if (!Float.isFinite(stored)) {
      throw new InputException(
          weight.file(),
          "tensor %s with the adapter's update holds %s as %s"
              .formatted(weight.name(), stored, dtype));
    }
    double loss = stored - ((double) w + delta);
    squaredLoss += loss * loss;
    squaredUpdate += (double) delta * delta;
  }

  private static Tensor read(Arena arena, Device device, TensorEntry entry) {
    Tensor tensor = allocate(arena, entry.shape()[0], entry.shape()[1]);
    entry.copyTo(device, tensor);
    return tensor;
  }

  private static Tensor allocate(Arena arena, long rows, long cols) {
    return Tensor.of(arena.allocate(rows * cols * Float.BYTES, 64), rows, cols);
  }
}
