package espalier.recipe;

import espalier.autograd.LanguageModelHead.Divergence;
import espalier.device.Device;
import espalier.distributed.SharedBatches;
import espalier.model.TokenBatch;
import java.nio.DoubleBuffer;
import java.util.Arrays;

/**
 * The losses of one variant of a model, and its KL from the original, added up in float64 over
 * batches.
 */
final class VariantLosses implements SharedBatches.Measure {

  /**
   * Nats per token.
   *
   * @param kl KL(original || variant)
   * @param ce cross-entropy of the variant
   * @param ceBase cross-entropy of the original
   */
  record Means(double kl, double ce, double ceBase) {}

  // Of a batch, over all positions; then once more over those that SAEs are applied to.
  private static final int TOKENS = 0;
  private static final int PREDICTIONS = 1;
  private static final int KL = 2;
  private static final int CE = 3;
  private static final int CE_BASE = 4;
  private static final int SUMS = 5;

  private final Divergence divergence;
  private final TokenBatch batch;
  private final Sum sum;
  private final double[] sums;

  /**
   * @param whereApplied whether {@link #whereApplied} is asked for
   */
  VariantLosses(Device device, Divergence divergence, TokenBatch batch, boolean whereApplied) {
    this.divergence = divergence;
    this.batch = batch;
    sum = new Sum(device);
    sums = new double[whereApplied ? 2 * SUMS : SUMS];
  }

  void reset() {
    Arrays.fill(sums, 0);
  }

  @Override
  public int numbers() {
    return sums.length;
  }

  @Override
  public void measure(DoubleBuffer numbers) {
    numbers.put(batch.tokens());
    numbers.put(batch.predictions());
    numbers.put(sum.of(divergence.kl()));
    numbers.put(sum.of(divergence.ceStudent()));
    numbers.put(sum.of(divergence.ceTeacher()));
    if (sums.length > SUMS) {
      numbers.put(whereSaesAreApplied());
    }
  }

  private double[] whereSaesAreApplied() {
    float[] divergences = divergence.kl().value().toArray();
    float[] losses = divergence.ceStudent().value().toArray();
    float[] base = divergence.ceTeacher().value().toArray();
    double[] applied = new double[SUMS];
    for (int t = 0; t < batch.tokens(); t++) {
      if (batch.isSpecial(t)) {
        continue;
      }
      applied[TOKENS]++;
      applied[KL] += divergences[t];
      if (batch.predicts(t)) {
        applied[PREDICTIONS]++;
        applied[CE] += losses[t];
        applied[CE_BASE] += base[t];
      }
    }
    return applied;
  }

  @Override
  public void add(DoubleBuffer numbers) {
    for (int i = 0; i < sums.length; i++) {
      sums[i] += numbers.get();
    }
  }

  /** KL over all positions, CE over all that have a next token. */
  Means everywhere() {
    return means(0);
  }

  /**
   * KL over the positions that SAEs are applied to, all but BOS and EOS; CE over those of them that
   * have a next token.
   */
  Means whereApplied() {
    return means(SUMS);
  }

  private Means means(int at) {
    double predictions = sums[at + PREDICTIONS];
    return new Means(
        sums[at + KL] / sums[at + TOKENS],
        sums[at + CE] / predictions,
        sums[at + CE_BASE] / predictions);
  }
}
