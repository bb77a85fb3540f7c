package espalier.recipe.reproduce;

import espalier.format.InputException;
import espalier.recipe.Require;
import espalier.recipe.SaeSpec;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * The settings of {@code espalier reproduce}.
 *
 * @param model empty: the demo's model, which is trained first
 * @param saes the SAEs to adapt around; empty: SAEs are trained for it
 * @param layer the layer of the SAEs, in experiments that have only one; empty: the middle one
 * @param layers the layers with adapters, {@code after} or {@code all}; empty: as in the paper
 * @param budget how many minutes the whole run should take on this machine
 * @param plan a plan that an earlier budget gave, instead of a budget
 */
public record ReproduceSettings(
    Experiment experiment,
    Path out,
    Optional<Path> model,
    List<Path> data,
    Optional<Path> evalData,
    List<SaeSpec> saes,
    OptionalInt layer,
    OptionalInt latents,
    OptionalInt k,
    OptionalInt rank,
    Optional<String> layers,
    OptionalInt batch,
    OptionalInt context,
    Optional<Double> lr,
    Optional<Double> saeLr,
    long seed,
    double budget,
    Optional<Plan> plan) {

  public ReproduceSettings {
    Require.positive("--budget", budget);
    layer.ifPresent(l -> Require.atLeast("--layer", l, 0));
    latents.ifPresent(m -> Require.atLeast("--latents", m, 4));
    k.ifPresent(n -> Require.atLeast("--k", n, 1));
    rank.ifPresent(r -> Require.atLeast("--rank", r, 1));
    batch.ifPresent(b -> Require.atLeast("--batch", b, 1));
    context.ifPresent(c -> Require.atLeast("--context", c, 2));
    lr.ifPresent(value -> Require.positive("--lr", value));
    saeLr.ifPresent(value -> Require.positive("--sae-lr", value));
    layers.ifPresent(
        text -> {
          if (!text.equals("after") && !text.equals("all")) {
            throw new InputException("--layers " + text + ": expected after or all");
          }
        });
    boolean noData = data.isEmpty() && evalData.isEmpty();
    if (model.isEmpty() && !(noData && saes.isEmpty())) {
      throw new InputException("--data, --eval-data and --sae need --model");
    }
    if (model.isPresent() && (data.isEmpty() || evalData.isEmpty())) {
      throw new InputException("--model needs --data and --eval-data");
    }
    if (experiment == Experiment.TIMING && !saes.isEmpty()) {
      throw new InputException(
          "--sae: timing compares SAEs from their first step on, so it trains its own");
    }
  }
}
