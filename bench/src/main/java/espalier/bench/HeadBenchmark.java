package espalier.bench;

import espalier.autograd.LanguageModelHead;
import espalier.device.Device;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Setup;

/**
 * The head with KL, forward and backward, of 512 tokens of width 512, in chunks as long as the
 * engine's: see {@link HeadWork}.
 */
public class HeadBenchmark extends DeviceBenchmark {

  static final long TOKENS = 512;
  static final long WIDTH = 512;

  @Param({"CHUNKS", "WHOLE", "PLAIN"})
  Implementation implementation;

  /** The Gemma-2-like shape's, SmolLM2's. */
  @Param({"16384", "49152"})
  long vocab;

  @Param({"0", "30"})
  float softcap;

  /** How. */
  public enum Implementation {
    CHUNKS,
    WHOLE,
    PLAIN
  }

  private HeadWork work;

  @Setup(Level.Trial)
  public void allocate() {
    Device device = open();
    long chunk = LanguageModelHead.chunk(device, TOKENS, vocab, 2);
    work = new HeadWork(device, TOKENS, WIDTH, vocab, softcap, chunk);
  }

  @Benchmark
  public void kl() {
    switch (implementation) {
      case CHUNKS -> work.chunks();
      case WHOLE -> work.whole();
      case PLAIN -> work.plain();
    }
    await();
  }
}
