package espalier.bench;

import espalier.device.LinearWay;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Setup;

/**
 * A linear layer with an adapter at 512 tokens: as esp_linear computes it in each of its ways, as
 * the chain of PEFT does, and without the adapter.
 */
public class LoraBenchmark extends DeviceBenchmark {

  static final long TOKENS = 512;

  /** The name of a {@link LinearWay}, {@code CHAIN} or {@code FROZEN}; some ways need a GPU. */
  @Param({"BY_SHAPE", "SEPARATE", "EXTRA_COLUMNS", "CHAIN", "FROZEN"})
  String implementation;

  /** in x out: queries, gate and up together, down of the Gemma-2-like shape. */
  @Param({"512x512", "512x4096", "2048x512"})
  String layer;

  @Param({"16", "64"})
  long rank;

  private Runnable forward;
  private Runnable backward;

  @Setup(Level.Trial)
  public void allocate() {
    String[] sizes = layer.split("x");
    LinearWay way =
        switch (implementation) {
          case "CHAIN", "FROZEN" -> LinearWay.SEPARATE;
          default -> LinearWay.valueOf(implementation);
        };
    LoraWork work =
        new LoraWork(open(), way, TOKENS, Long.parseLong(sizes[0]), Long.parseLong(sizes[1]), rank);
    switch (implementation) {
      case "CHAIN" -> {
        forward = work::forwardChain;
        backward = work::backwardChain;
      }
      case "FROZEN" -> {
        forward = work::forwardFrozen;
        backward = work::backwardFrozen;
      }
      default -> {
        forward = work::forwardFused;
        backward = work::backwardFused;
      }
    }
    forward.run();
  }

  @Benchmark
  public void forward() {
    forward.run();
    await();
  }

  @Benchmark
  public void backward() {
    backward.run();
    await();
  }
}
