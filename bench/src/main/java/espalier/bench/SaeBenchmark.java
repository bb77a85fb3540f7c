package espalier.bench;

import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Setup;

/**
 * An SAE over 512 tokens of width 576 (SmolLM2-135M), about 32 latents active, on lists and dense.
 */
public class SaeBenchmark extends DeviceBenchmark {

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
    work = new SaeWork(open(), kind, TOKENS, WIDTH, latents, ACTIVE);
  }

  /** Dense: the product alone, which an encoder must do at least. */
  @Benchmark
  public void encode() {
    if (implementation.equals("lists")) {
      work.encode();
    } else {
      work.encodeProduct();
    }
    await();
  }

  @Benchmark
  public void decode() {
    if (implementation.equals("lists")) {
      work.decodeLists();
    } else {
      work.decodeDense();
    }
    await();
  }

  @Benchmark
  public void backward() {
    if (implementation.equals("lists")) {
      work.backwardLists();
    } else {
      work.backwardDense();
    }
    await();
  }
}
