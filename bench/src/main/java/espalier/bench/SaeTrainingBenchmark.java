package espalier.bench;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Setup;

/** A step of training a TopK SAE on 512 tokens of width 576, 32 latents active. */
public class SaeTrainingBenchmark extends DeviceBenchmark {

  @Param({"8192"})
  int latents;

  @Param({"lists", "dense"})
  String implementation;

  private SaeTrainingWork work;

  @Setup(Level.Trial)
  public void allocate() {
    work =
        new SaeTrainingWork(
            open(),
            SaeBenchmark.TOKENS,
            (int) SaeBenchmark.WIDTH,
            latents,
            (int) SaeBenchmark.ACTIVE);
  }

  @Benchmark
  public void step() {
    if (implementation.equals("lists")) {
      work.stepOnLists();
    } else {
      work.stepDense();
    }
    await();
  }
}
