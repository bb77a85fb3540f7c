package espalier.recipe;

import espalier.autograd.LanguageModelHead.Divergence;
import espalier.device.Device;
import espalier.model.TokenBatch;

/** What one variant of a model loses against the original, added up in float64 over batches. */
final class VariantLosses {

  /**
   * Nats per token.
   *
   * @param kl KL(original || variant)
   * @param ce cross-entropy of the variant
   * @param ceBase cross-entropy of the original
   */
  record Means(double kl, double ce, double ceBase) {}

  private final Divergence divergence;
  private final TokenBatch batch;
  private final Sum sum;
  private final boolean whereApplied;
  private long tokens;
  private long predictions;
  private double kl;
  private double ce;
  private double ceBase;
  private long tokensApplied;
  private long predictionsApplied;
  private double klApplied;
  private double ceApplied;
  private double ceBaseApplied;

  /**
   * @param whereApplied whether {@link #whereApplied} is asked for
   */
  VariantLosses(Device device, Divergence divergence, TokenBatch batch, boolean whereApplied) {
    this.divergence = divergence;
    this.batch = batch;
    this.whereApplied = whereApplied;
    sum = new Sum(device);
  }

  void reset() {
    tokens = predictions = tokensApplied = predictionsApplied = 0;
    kl = ce = ceBase = klApplied = ceApplied = ceBaseApplied = 0;
  }

  /** Adds the batch that has just been through the tape. */
  void add() {
    kl += sum.of(divergence.kl());
    ce += sum.of(divergence.ceStudent());
    ceBase += sum.of(divergence.ceTeacher());
    tokens += batch.tokens();
    predictions += batch.predictions();
    if (whereApplied) {
      addWhereApplied();
    }
  }

  private void addWhereApplied() {
    float[] divergences = divergence.kl().value().toArray();
    float[] losses = divergence.ceStudent().value().toArray();
    float[] base = divergence.ceTeacher().value().toArray();
    for (int t = 0; t < batch.tokens(); t++) {
      if (batch.isSpecial(t)) {
        continue;
      }
      tokensApplied++;
      klApplied += divergences[t];
      if (batch.predicts(t)) {
        predictionsApplied++;
        ceApplied += losses[t];
        ceBaseApplied += base[t];
      }
    }
  }

  /** KL over all positions, CE over all that have a next token. */
  Means everywhere() {
    return new Means(kl / tokens, ce / predictions, ceBase / predictions);
  }

  /**
   * KL over the positions that SAEs are applied to, all but BOS and EOS; CE over those of them that
   * have a next token.
   */
  Means whereApplied() {
    return new Means(
        klApplied / tokensApplied,
        ceApplied / predictionsApplied,
        ceBaseApplied / predictionsApplied);
  }
}
