package espalier.recipe;

import espalier.format.InputException;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * Everything that {@code espalier probe} is told.
 *
 * @param data texts with labels to fit probes on
 * @param evalData texts with labels to test them on
 * @param label field of the labels
 * @param sizes numbers of features that probes may look at
 * @param layer block whose output is probed beside the latents; not given: the last
 * @param context tokens of a text at most, the first ones
 * @param features a folder for the features that probes are fitted on
 */
public record ProbeSettings(
    Path model,
    List<SaeSpec> saes,
    Optional<Path> adapter,
    Path data,
    Path evalData,
    String label,
    List<Integer> sizes,
    OptionalInt layer,
    int context,
    Optional<Path> features)
    implements VariantsSettings {

  public ProbeSettings {
    sizes.forEach(k -> Require.atLeast("--k", k, 1));
    if (sizes.isEmpty()) {
      throw new InputException("--k: at least one is needed");
    }
    layer.ifPresent(l -> Require.atLeast("--layer", l, 0));
    Require.atLeast("--context", context, 2);
    if (saes.isEmpty() && adapter.isPresent()) {
      throw new InputException("--adapter needs the --sae that it was trained around");
    }
  }
}
