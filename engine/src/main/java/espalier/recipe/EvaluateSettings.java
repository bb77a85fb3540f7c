package espalier.recipe;

import java.nio.file.Path;
import java.util.List;
import java.util.Optional;

/** Everything that {@code espalier evaluate} is told. */
public record EvaluateSettings(
    Path model, List<SaeSpec> saes, Optional<Path> adapter, List<Path> data, int context) {

  public EvaluateSettings {
    Require.atLeast("--context", context, 2);
  }
}
