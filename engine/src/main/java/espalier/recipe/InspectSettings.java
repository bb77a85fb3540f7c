package espalier.recipe;

import espalier.format.InputException;
import java.nio.file.Path;
import java.util.Optional;

/**
 * Everything that {@code espalier inspect} is told.
 *
 * @param input activations {@code [n, d]} to run an SAE on
 * @param latents where to write its dense latents {@code [n, m]}
 * @param output where to write its reconstructions {@code [n, d]}
 */
public record InspectSettings(
    Path path, Optional<Path> input, Optional<Path> latents, Optional<Path> output) {

  public InspectSettings {
    if (input.isEmpty() && (latents.isPresent() || output.isPresent())) {
      throw new InputException("--latents and --output need --input");
    }
  }
}
