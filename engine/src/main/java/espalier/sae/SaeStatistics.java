package espalier.sae;

import espalier.autograd.Tape;
import espalier.device.Device;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * What an SAE does to the activations that reach it, summed in float64 over any number of batches.
 * Kept positions (BOS, EOS) do not count.
 */
public final class SaeStatistics {

  private static final int HEADER = 5;

  private final long d;
  private final long m;
  private final MemorySegment sums; // float64 [5 + d], see esp_sae_stats
  private final MemorySegment fired; // int64 [m]

  public SaeStatistics(Device device, Sae sae) {
    d = sae.inputs();
    m = sae.latents();
    sums = device.allocate((HEADER + d) * Double.BYTES);
    fired = device.allocate(m * Long.BYTES);
    reset();
  }

  public void reset() {
    sums.fill((byte) 0);
    fired.fill((byte) 0);
  }

  /** From now on each forward pass of the tape adds its tokens. */
  public void record(Tape tape, Splice splice) {
    Splice.Latents latents = splice.latents();
    long tokens = splice.input().rows();
    tape.op("saeStats")
        .reads(splice.input(), splice.output(), latents.index(), latents.value(), latents.count())
        .forward(
            k ->
                k.saeStats(
                    splice.input().data(),
                    splice.output().data(),
                    latents.index().data(),
                    latents.value().data(),
                    latents.count().data(),
                    latents.capacity(),
                    splice.keep(),
                    sums,
                    fired,
                    tokens,
                    d,
                    m));
  }

  /**
   * @param tokens positions the SAE was applied to
   * @param l0 mean number of active latents
   * @param fvu fraction of variance unexplained: sum |x - y|^2 / sum |x - mean x|^2
   * @param cosine mean cosine similarity of x and y
   * @param dead share of the latents that were never active, in [0, 1]
   */
  public record Summary(long tokens, double l0, double fvu, double cosine, double dead) {
    public double explainedVariance() {
      return 1 - fvu;
    }
  }

  public Summary summary() {
    double n = sum(0);
    double meanSquared = 0;
    for (int i = 0; i < d; i++) {
      meanSquared += square(sum(HEADER + i) / n);
    }
    double variance = sum(2) - n * meanSquared;
    long dead = 0;
    for (long i = 0; i < m; i++) {
      dead += firings(i) == 0 ? 1 : 0;
    }
    return new Summary((long) n, sum(4) / n, sum(1) / variance, sum(3) / n, dead / (double) m);
  }

  /** How many tokens each latent was active on. */
  public long[] firings() {
    return fired.toArray(ValueLayout.JAVA_LONG);
  }

  private long firings(long latent) {
    return fired.getAtIndex(ValueLayout.JAVA_LONG, latent);
  }

  private double sum(long i) {
    return sums.getAtIndex(ValueLayout.JAVA_DOUBLE, i);
  }

  private static double square(double x) {
    return x * x;
  }
}
