package espalier.sae;

import espalier.autograd.Tape;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.distributed.SharedBatches;
import java.lang.foreign.MemorySegment;
import java.nio.DoubleBuffer;
import java.util.Arrays;

/**
 * What an SAE does to the activations that reach it, summed in float64 over any number of batches:
 * the reconstruction, shrinkage and sparsity metrics of SAEBench's core evaluation (Karvonen et al.
 * 2025), with the mean squared error and the explained variance as SAELens corrected them (6.45.1
 * and 6.45.2).
 *
 * <p>The positions that count are exactly those that the SAE is applied to (all but BOS and EOS),
 * whether or not a next token follows.
 */
public final class SaeStatistics implements SharedBatches.Measure {

  private static final int HEADER = 11;

  /**
   * Of the mean square of x: less is no variance, but roundings of float32 activations that are one
   * and the same, or of the sums over a single position.
   */
  private static final double LEAST_VARIANCE = 1e-12;

  private final long d;
  private final long m;
  private final MemorySegment batch; // float64 [11 + d], see esp_sae_stats
  private final MemorySegment fired; // int64 [m]
  private final double[] sum; // [11 + d], of all batches
  private long[] firings;

  public SaeStatistics(Device device, Sae sae) {
    this(device, sae.inputs(), sae.latents());
  }

  SaeStatistics(Device device, long d, long m) {
    this.d = d;
    this.m = m;
    batch = device.allocate((HEADER + d) * Double.BYTES);
    fired = device.allocate(m * Long.BYTES);
    sum = new double[Math.toIntExact(HEADER + d)];
    reset();
  }

  public void reset() {
    Transfer.clear(batch);
    Transfer.clear(fired);
    Arrays.fill(sum, 0);
    firings = new long[Math.toIntExact(m)];
  }

  /**
   * Records the measurement: from now on each forward pass of the tape is a batch that can be
   * measured.
   */
  public void record(Tape tape, Splice splice) {
    Latents latents = splice.latents();
    long tokens = splice.input().rows();
    tape.op("saeStats")
        .reads(splice.input(), splice.output())
        .forward(
            k ->
                k.saeStats(
                    splice.input().data(),
                    splice.output().data(),
                    latents.index(),
                    latents.value(),
                    latents.count(),
                    latents.capacity(),
                    splice.keep(),
                    batch,
                    fired,
                    tokens,
                    d,
                    m));
  }

  /**
   * Means over the positions; x is what reaches the SAE, y its reconstruction, f its latents.
   *
   * @param tokens positions the SAE was applied to
   * @param l0 mean number of active latents
   * @param l1 mean of sum f
   * @param fvu fraction of variance unexplained: sum |x - y|^2 / sum |x - mean x|^2; NaN where x is
   *     the same at all positions
   * @param mse mean |x - y|^2, a sum over the width
   * @param cosine mean cosine similarity of x and y
   * @param l2In mean |x|
   * @param l2Out mean |y|
   * @param l2Ratio mean |y| / |x|, 1 where |x| &lt; 1e-4: below 1 where the SAE shrinks
   * @param relativeReconstructionBias mean |y|^2 / mean x.y, over all positions at once: below 1
   *     where a larger y would be nearer to x (Rajamanoharan et al. 2024, "Improving dictionary
   *     learning with gated sparse autoencoders")
   */
  public record Summary(
      long tokens,
      double l0,
      double l1,
      double fvu,
      double mse,
      double cosine,
      double l2In,
      double l2Out,
      double l2Ratio,
      double relativeReconstructionBias,
      Density density) {

    /** 1 - E|x - y|^2 / (E|x|^2 - |E x|^2), the definition of SAELens since 6.45.1. */
    public double explainedVariance() {
      return 1 - fvu;
    }

    /** Share of the latents that were never active, in [0, 1]. */
    public double dead() {
      return 1 - density.alive;
    }
  }

  /**
   * How often latents are active; a latent's density is the share of the positions where it is.
   *
   * @param alive share of the latents with a density above 0
   * @param over1Percent share of the latents with a density above 1/100
   * @param over10Percent above 1/10
   * @param normalizedOver1Percent the part of all activity that is theirs: sum of their densities /
   *     sum of all
   * @param normalizedOver10Percent likewise
   */
  public record Density(
      double alive,
      double over1Percent,
      double over10Percent,
      double normalizedOver1Percent,
      double normalizedOver10Percent) {}

  @Override
  public int numbers() {
    return sum.length;
  }

  @Override
  public void measure(DoubleBuffer numbers) {
    numbers.put(Transfer.doubles(batch));
    Transfer.clear(batch);
  }

  @Override
  public void add(DoubleBuffer numbers) {
    for (int i = 0; i < sum.length; i++) {
      sum[i] += numbers.get();
    }
  }

  @Override
  public long[] counts() {
    return Transfer.longs(fired);
  }

  @Override
  public void counted(long[] all) {
    firings = all;
  }

  /** Of the batches that were added. */
  public Summary summary() {
    double n = sum[0];
    double meanSquared = 0;
    for (int i = 0; i < d; i++) {
      meanSquared += square(sum[HEADER + i] / n);
    }
    double variance = sum[2] - n * meanSquared;
    return new Summary(
        (long) n,
        sum[4] / n,
        sum[10] / n,
        variance > LEAST_VARIANCE * sum[2] ? sum[1] / variance : Double.NaN,
        sum[1] / n,
        sum[3] / n,
        sum[7] / n,
        sum[8] / n,
        sum[9] / n,
        sum[5] / sum[6],
        density((long) n));
  }

  private Density density(long tokens) {
    long alive = 0;
    long often = 0;
    long veryOften = 0;
    double all = 0;
    double byOften = 0;
    double byVeryOften = 0;
    for (long times : firings) {
      all += times;
      alive += times > 0 ? 1 : 0;
      if (100 * times > tokens) {
        often++;
        byOften += times;
      }
      if (10 * times > tokens) {
        veryOften++;
        byVeryOften += times;
      }
    }
    double latents = m;
    return new Density(
        alive / latents, often / latents, veryOften / latents, byOften / all, byVeryOften / all);
  }

  /** How many tokens each latent was active on. */
  public long[] firings() {
    return firings;
  }

  private static double square(double x) {
    return x * x;
  }
}
