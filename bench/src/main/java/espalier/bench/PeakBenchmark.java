package espalier.bench;

import espalier.device.Device;
import espalier.tensor.Tensor;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Setup;

/**
 * What bounds everything else: a large product, 2 edge^3 operations, and a large copy, of which
 * {@link #COPIED} edge^2 elements are read and as many written.
 */
public class PeakBenchmark extends DeviceBenchmark {

  /** More than caches hold. */
  static final int COPIED = 16;

  @Param("2048")
  long edge;

  private Device opened;
  private Operands operands;
  private Tensor a;
  private Tensor b;
  private Tensor c;

  @Setup(Level.Trial)
  public void allocate() {
    opened = open();
    operands = new Operands(opened);
    a = operands.random(COPIED * edge, edge, 1);
    b = operands.random(edge, edge, 1);
    c = operands.random(COPIED * edge, edge, 1);
  }

  @Benchmark
  public void product() {
    operands.productTransposed(a.rows(0, edge), b, 1, 0, c.rows(0, edge));
    await();
  }

  @Benchmark
  public void copy() {
    opened.kernels().copy(a.data(), c.data(), a.size());
    await();
  }
}
