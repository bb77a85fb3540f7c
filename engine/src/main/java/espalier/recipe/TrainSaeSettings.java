package espalier.recipe;

import espalier.format.InputException;
import espalier.train.Schedule;
import java.nio.file.Path;
import java.util.List;
import java.util.OptionalInt;

/**
 * Everything that {@code espalier train-sae} is told.
 *
 * @param arch {@code topk}, {@code jumprelu} or {@code standard}
 * @param objective {@code mse} or {@code e2e}
 * @param latents width of the SAE
 * @param k active latents a token: exactly for topk, aimed at for jumprelu
 * @param l1 coefficient of a standard SAE's sparsity
 * @param bandwidth of the straight-through gradient of thresholds, in units of scaled
 *     pre-activations
 * @param steps not given: one pass over the data
 */
public record TrainSaeSettings(
    Path model,
    int layer,
    String arch,
    String objective,
    List<Path> data,
    Path out,
    int latents,
    int k,
    double l1,
    double bandwidth,
    double lr,
    Schedule schedule,
    int warmup,
    int batch,
    int context,
    OptionalInt steps,
    long seed,
    boolean resume,
    int checkpointEvery) {

  public TrainSaeSettings {
    if (!List.of("topk", "jumprelu", "standard").contains(arch)) {
      throw new InputException("--arch " + arch + ": supported are topk, jumprelu and standard");
    }
    if (!List.of("mse", "e2e").contains(objective)) {
      throw new InputException("--objective " + objective + ": supported are mse and e2e");
    }
    Require.atLeast("--layer", layer, 0);
    Require.atLeast("--latents", latents, 1);
    Require.atLeast("--k", k, 1);
    if (k > latents) {
      throw new InputException("--k " + k + ": there are only " + latents + " latents");
    }
    Require.notNegative("--l1", l1);
    Require.positive("--bandwidth", bandwidth);
    Require.positive("--lr", lr);
    Require.atLeast("--warmup", warmup, 0);
    Require.atLeast("--batch", batch, 1);
    Require.atLeast("--context", context, 2);
    steps.ifPresent(s -> Require.atLeast("--steps", s, 1));
    Require.atLeast("--checkpoint-every", checkpointEvery, 1);
  }
}
