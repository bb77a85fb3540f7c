package espalier.bench;

import espalier.device.Device;
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
 * An SAE over 512 tokens of width 576 (SmolLM2-135M), about 32 latents active, on lists and dense.
 * The device is chosen as everywhere: {@code -Despalier.device=cpu|cuda}.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Fork(value = 1, jvmArgsAppend = "--enable-native-access=ALL-UNNAMED")
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class SaeBenchmark {

  static final long TOKENS = 512;
  static final long WIDTH = 576;
  static final long ACTIVE = 32;

  @Param({"TOPK", "JUMPRELU"})
  SaeWork.Kind kind;

  @Param({"4096", "16384", "65536"})
  long latents;

  @Param({"lists", "dense"})
  String implementation;

  private SaeWork work;

  @Setup(Level.Trial)
  public void allocate() {
    work = new SaeWork(Device.open(), kind, TOKENS, WIDTH, latents, ACTIVE);
  }

  /** Dense: the product alone, which an encoder must do at least. */
  @Benchmark
  public SaeWork encode() {
    if (implementation.equals("lists")) {
      work.encode();
    } else {
      work.encodeProduct();
    }
    return work;
  }

  @Benchmark
  public SaeWork decode() {
    if (implementation.equals("lists")) {
      work.decodeLists();
    } else {
      work.decodeDense();
    }
    return work;
  }

  @Benchmark
  public SaeWork backward() {
    if (implementation.equals("lists")) {
      work.backwardLists();
    } else {
      work.backwardDense();
    }
    return work;
  }

  @TearDown(Level.Trial)
  public void free() {
    work.close();
  }
}
