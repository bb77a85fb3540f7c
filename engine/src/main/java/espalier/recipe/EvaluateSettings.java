package espalier.recipe;

import java.nio.file.Path;
import java.util.List;
import java.util.Optional;

/**
 * Everything that {@code espalier evaluate} is told.
 *
 * @param out a folder for what was measured, latent densities included; empty to write nothing
 */
public record EvaluateSettings(
    Path model,
    List<SaeSpec> saes,
    Optional<Path> adapter,
    List<Path> data,
    int context,
    MetricSet metrics,
    Optional<Path> out) {

  public EvaluateSettings {
    Require.atLeast("--context", context, 2);
  }
}
