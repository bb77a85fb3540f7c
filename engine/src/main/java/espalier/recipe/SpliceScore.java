package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;

/**
 * How much of its behaviour a model keeps with SAEs in it, between two yardsticks: the original
 * model, and the model whose sites give 0 (zero ablation). CE and KL are in nats per token.
 *
 * @param ceBase cross-entropy of the original
 * @param ceSae with the SAEs
 * @param ceAblated with 0 where the SAEs would be applied
 * @param klSae KL(original || with the SAEs)
 * @param klAblated KL(original || with zeros)
 */
public record SpliceScore(
    double ceBase, double ceSae, double ceAblated, double klSae, double klAblated) {

  static SpliceScore of(VariantLosses.Means sae, VariantLosses.Means ablated) {
    return new SpliceScore(sae.ceBase(), sae.ce(), ablated.ce(), sae.kl(), ablated.kl());
  }

  /**
   * Loss recovered, (CE ablated - CE with SAE) / (CE ablated - CE original): 1 for an SAE that
   * costs nothing, 0 for one no better than zeros.
   */
  public double ceLossScore() {
    return (ceAblated - ceSae) / (ceAblated - ceBase);
  }

  /** (KL ablated - KL with SAE) / KL ablated, between the same limits. */
  public double klDivScore() {
    return (klAblated - klSae) / klAblated;
  }

  /** The CEs and KLs, and the scores by the names that SAEBench gives them. */
  void addTo(ObjectNode json) {
    Evaluation.put(json, "ce_base", ceBase);
    Evaluation.put(json, "ce_sae", ceSae);
    Evaluation.put(json, "ce_abl", ceAblated);
    Evaluation.put(json, "ce_loss_score", ceLossScore());
    Evaluation.put(json, "kl_sae", klSae);
    Evaluation.put(json, "kl_abl", klAblated);
    Evaluation.put(json, "kl_div_score", klDivScore());
  }
}
