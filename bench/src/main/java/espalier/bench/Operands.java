package espalier.bench;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.tensor.Tensor;
import java.util.function.IntConsumer;
import java.util.stream.IntStream;

/** Matrices for benchmarks, and products of them. */
final class Operands {

  private final Device device;
  private long seed;

  Operands(Device device) {
    this.device = device;
  }

  /** {@code [rows, cols]} of the device's type, uniform with the given standard deviation. */
  Tensor random(long rows, long cols, double deviation) {
    Tensor x = empty(rows, cols);
    float bound = (float) (Math.sqrt(3) * deviation);
    device.kernels().fillUniform(x.data(), bound, ++seed, x.size());
    return x;
  }

  /** {@code [rows, cols]} of the device's type. */
  Tensor empty(long rows, long cols) {
    return Tensor.allocate(device, rows, cols, device.type());
  }

  /** {@code [rows, cols]} of float32, as statistics and gradients of parameters are. */
  Tensor floats(long rows, long cols) {
    return Tensor.allocate(device, rows, cols, ElementType.F32);
  }

  /** {@code c = alpha a b + beta c}. */
  void product(Tensor a, Tensor b, double alpha, double beta, Tensor c) {
    product(false, false, a, b, alpha, beta, c);
  }

  /** {@code c = alpha a b^T + beta c}. */
  void productTransposed(Tensor a, Tensor b, double alpha, double beta, Tensor c) {
    product(false, true, a, b, alpha, beta, c);
  }

  /** {@code c = alpha a^T b + beta c}. */
  void transposedProduct(Tensor a, Tensor b, double alpha, double beta, Tensor c) {
    product(true, false, a, b, alpha, beta, c);
  }

  private void product(
      boolean transA, boolean transB, Tensor a, Tensor b, double alpha, double beta, Tensor c) {
    device
        .kernels()
        .gemm(
            transA,
            transB,
            c.rows(),
            c.cols(),
            transA ? a.rows() : a.cols(),
            (float) alpha,
            a.data(),
            a.stride(),
            b.data(),
            b.stride(),
            (float) beta,
            c.data(),
            c.stride(),
            c.type());
  }

  /** For an implementation of which Java has a part: a baseline of the host's alone. */
  void requireHost() {
    if (!device.isHost()) {
      throw new UnsupportedOperationException("the plain way needs memory that Java can read");
    }
  }

  /** Java's part of an implementation that has one: rows are independent, all cores take part. */
  static void rows(long count, IntConsumer row) {
    IntStream.range(0, Math.toIntExact(count)).parallel().forEach(row);
  }
}
