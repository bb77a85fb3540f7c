package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.sae.SaeStatistics;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.SortedMap;

/**
 * What splicing SAEs into a model costs, and how much of it adapters win back.
 *
 * @param ceBase cross-entropy of the original model, nats per predicted token
 * @param ceSae with the SAEs; empty without any
 * @param ceAdapted with the SAEs and the adapters; empty without adapters
 * @param klSae KL(original || spliced), nats per token
 * @param klAdapted KL(original || spliced and adapted)
 * @param score of all SAEs together, over the positions of ceBase and klSae; empty unless measured
 * @param saes what each SAE does to what reaches it in the spliced, unadapted model, by layer
 * @param scores of each SAE spliced in alone, over the positions that it is applied to; empty
 *     unless measured
 * @param sae what becomes of tokens and activations with the SAEs; empty unless measured
 * @param adapted likewise with the adapters, too
 */
public record Evaluation(
    double ceBase,
    OptionalDouble ceSae,
    OptionalDouble ceAdapted,
    OptionalDouble klSae,
    OptionalDouble klAdapted,
    Optional<SpliceScore> score,
    SortedMap<Integer, SaeStatistics.Summary> saes,
    SortedMap<Integer, SpliceScore> scores,
    Optional<Detail> sae,
    Optional<Detail> adapted) {

  /** What becomes of single tokens' losses, and of activations. */
  record Detail(TokenDifferences tokens, ActivationDistance distance) {
    void reset() {
      tokens.reset();
      distance.reset();
    }
  }

  Evaluation withAdapters(VariantLosses.Means losses, Optional<Detail> detail) {
    return new Evaluation(
        ceBase,
        ceSae,
        OptionalDouble.of(losses.ce()),
        klSae,
        OptionalDouble.of(losses.kl()),
        score,
        saes,
        scores,
        sae,
        detail);
  }

  /**
   * (CE with SAE - CE adapted) / (CE with SAE - CE base): 1 when the adapters undo the whole
   * damage. Empty without adapters, and where the SAE costs nothing.
   */
  public OptionalDouble gapClosed() {
    if (ceSae.isEmpty() || ceAdapted.isEmpty() || ceSae.getAsDouble() == ceBase) {
      return OptionalDouble.empty();
    }
    double gap = ceSae.getAsDouble() - ceBase;
    return OptionalDouble.of((ceSae.getAsDouble() - ceAdapted.getAsDouble()) / gap);
  }

  /**
   * Warns of losses that are not numbers, which {@link #toJson} leaves out: weights or activations
   * are not finite then.
   */
  void warn(Console console) {
    warn(console, "of the original", OptionalDouble.of(ceBase));
    warn(console, "with SAEs", ceSae);
    warn(console, "with adapters", ceAdapted);
  }

  private static void warn(Console console, String what, OptionalDouble ce) {
    if (ce.isPresent() && !Double.isFinite(ce.getAsDouble())) {
      console.warn("the cross-entropy %s is %s".formatted(what, ce.getAsDouble()));
    }
  }

  /** The fields of the command line's contract, and the further ones as far as measured. */
  public ObjectNode toJson() {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    put(json, "ce_base", ceBase);
    put(json, "ce_sae", ceSae);
    put(json, "ce_adapted", ceAdapted);
    put(json, "gap_closed", gapClosed());
    put(json, "kl_sae", klSae);
    put(json, "kl_adapted", klAdapted);
    score.ifPresent(s -> s.addTo(json));
    ObjectNode all = json.putObject("saes");
    saes.forEach(
        (layer, summary) -> {
          ObjectNode fields = toJson(summary);
          if (scores.containsKey(layer)) {
            scores.get(layer).addTo(fields);
          }
          all.set(String.valueOf(layer), fields);
        });
    detail(json, "sae", sae);
    detail(json, "adapted", adapted);
    return json;
  }

  private static void detail(ObjectNode json, String variant, Optional<Detail> detail) {
    detail.ifPresent(
        d -> {
          json.withObject("/token_loss_differences").set(variant, d.tokens.toJson());
          json.withObject("/activation_distance").set(variant, d.distance.toJson());
        });
  }

  private static ObjectNode toJson(SaeStatistics.Summary sae) {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    put(json, "l0", sae.l0());
    put(json, "fvu", sae.fvu());
    put(json, "explained_variance", sae.explainedVariance());
    put(json, "cosine", sae.cosine());
    put(json, "dead", sae.dead());
    put(json, "mse", sae.mse());
    put(json, "l2_norm_in", sae.l2In());
    put(json, "l2_norm_out", sae.l2Out());
    put(json, "l2_ratio", sae.l2Ratio());
    put(json, "relative_reconstruction_bias", sae.relativeReconstructionBias());
    put(json, "l1", sae.l1());
    SaeStatistics.Density density = sae.density();
    put(json, "frac_alive", density.alive());
    put(json, "freq_over_1_percent", density.over1Percent());
    put(json, "freq_over_10_percent", density.over10Percent());
    put(json, "normalized_freq_over_1_percent", density.normalizedOver1Percent());
    put(json, "normalized_freq_over_10_percent", density.normalizedOver10Percent());
    return json;
  }

  /** JSON has no NaN: what is not defined, such as the bias of an SAE that gives 0, is left out. */
  static void put(ObjectNode json, String key, double value) {
    if (Double.isFinite(value)) {
      json.put(key, value);
    }
  }

  private static void put(ObjectNode json, String key, OptionalDouble value) {
    value.ifPresent(v -> put(json, key, v));
  }
}
