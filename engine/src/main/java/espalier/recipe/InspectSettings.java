package espalier.recipe;

import espalier.format.InputException;
import java.nio.file.Path;
import java.util.Optional;

/**
 * Everything that {@code espalier inspect} is told.
 *
 * @param input activations {@code [n, d]} to run an SAE on, or token ids {@code [n, t]} for a model
 * @param latents where to write an SAE's dense latents {@code [n, m]}
 * @param output where to write an SAE's outputs {@code [n, d]}, or a model's logits {@code [n t,
 *     vocab]}
 * @param hidden where to write a model's residual stream {@code [(layers + 1) n t, hidden]}: before
 *     the first block, after each but the last, and what the head reads
 */
public record InspectSettings(
    Path path,
    Optional<Path> input,
    Optional<Path> latents,
    Optional<Path> output,
    Optional<Path> hidden) {

  public InspectSettings {
    if (input.isEmpty() && (latents.isPresent() || output.isPresent() || hidden.isPresent())) {
      throw new InputException("--latents, --output and --hidden need --input");
    }
  }
}
