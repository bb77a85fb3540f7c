package espalier.bench;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Setup;

/** Attention by the kernel and the plain way: see {@link AttentionWork}. */
public class AttentionBenchmark extends DeviceBenchmark {

  @Param({"FUSED", "PLAIN"})
  Implementation implementation;

  /** batch x length x heads x kvHeads x headDim: SmolLM2-135M's, the Gemma-2-like shape's. */
  @Param({"1x512x9x3x64", "1x512x4x2x128", "1x2048x9x3x64"})
  String shape;

  @Param({"0", "50"})
  float softcap;

  @Param({"0", "256"})
  int window;

  /** How. */
  public enum Implementation {
    FUSED,
    PLAIN
  }

  private AttentionWork work;

  @Setup(Level.Trial)
  public void allocate() {
    String[] sizes = shape.split("x");
    work =
        new AttentionWork(
            open(),
            new AttentionWork.Shape(
                Integer.parseInt(sizes[0]),
                Integer.parseInt(sizes[1]),
                Integer.parseInt(sizes[2]),
                Integer.parseInt(sizes[3]),
                Integer.parseInt(sizes[4]),
                softcap,
                window));
    forward();
  }

  @Benchmark
  public void forward() {
    switch (implementation) {
      case FUSED -> work.forwardFused();
      case PLAIN -> work.forwardPlain();
    }
    await();
  }

  @Benchmark
  public void backward() {
    switch (implementation) {
      case FUSED -> work.backwardFused();
      case PLAIN -> work.backwardPlain();
    }
    await();
  }
}
