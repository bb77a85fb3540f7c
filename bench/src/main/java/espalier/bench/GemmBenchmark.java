package espalier.bench;

import espalier.bindings.NativeException;
import espalier.bindings.NativeLibraries;
import espalier.bindings.kernels.Kernels;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * Time of {@code esp_gemm}, y = x w^T, in the shapes of SmolLM2-135M at 512 tokens. GFLOP/s are 2 m
 * n k / time.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Fork(value = 1, jvmArgsAppend = "--enable-native-access=ALL-UNNAMED")
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class GemmBenchmark {
  /** m x n x k: query projection, gate and up together, down, a rank-16 adapter's A. */
  @Param({"512x576x576", "512x3072x576", "512x576x1536", "512x16x576"})
  String shape;

  private int m;
  private int n;
  private int k;
  private Arena arena;
  private MemorySegment x; // [m, k]
  private MemorySegment w; // [n, k]
  private MemorySegment y; // [m, n]

  @Setup(Level.Trial)
  public void allocate() {
    String[] sizes = shape.split("x");
    m = Integer.parseInt(sizes[0]);
    n = Integer.parseInt(sizes[1]);
    k = Integer.parseInt(sizes[2]);

    NativeLibraries.require();

    arena = Arena.ofShared();
    x = ones(m * k);
    w = ones(n * k);
    y = ones(m * n);
  }

  private MemorySegment ones(long count) {
    MemorySegment values = arena.allocate(ValueLayout.JAVA_FLOAT, count);
    for (long i = 0; i < count; i++) values.setAtIndex(ValueLayout.JAVA_FLOAT, i, 1f);
    return values;
  }

  @Benchmark
  public int gemm() {
    int status = Kernels.esp_gemm(0, 1, m, n, k, 1f, x, k, w, k, 0f, y, n, 0, 0);
    NativeException.check("esp_gemm", status);
    return status;
  }

  @TearDown(Level.Trial)
  public void free() {
    arena.close();
  }
}
