package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.sae.SaeStatistics;
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
 * @param saes what each SAE does to what reaches it in the spliced, unadapted model, by layer
 */
public record Evaluation(
    double ceBase,
    OptionalDouble ceSae,
    OptionalDouble ceAdapted,
    OptionalDouble klSae,
    OptionalDouble klAdapted,
    SortedMap<Integer, SaeStatistics.Summary> saes) {

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

  /** The fields of the command line's contract. */
  public ObjectNode toJson() {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("ce_base", ceBase);
    put(json, "ce_sae", ceSae);
    put(json, "ce_adapted", ceAdapted);
    put(json, "gap_closed", gapClosed());
    put(json, "kl_sae", klSae);
    put(json, "kl_adapted", klAdapted);
    ObjectNode all = json.putObject("saes");
    saes.forEach(
        (layer, sae) ->
            all.putObject(String.valueOf(layer))
                .put("l0", sae.l0())
                .put("fvu", sae.fvu())
                .put("explained_variance", sae.explainedVariance())
                .put("cosine", sae.cosine())
                .put("dead", sae.dead()));
    return json;
  }

  private static void put(ObjectNode json, String key, OptionalDouble value) {
    if (value.isPresent()) {
      json.put(key, value.getAsDouble());
    }
  }
}
