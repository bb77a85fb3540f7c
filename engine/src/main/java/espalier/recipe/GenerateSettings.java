package espalier.recipe;

import espalier.format.InputException;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;

/**
 * Everything that {@code espalier generate} is told.
 *
 * @param temperature 0: always the likeliest token
 * @param topP share of probability drawn from, in (0, 1]
 */
public record GenerateSettings(
    Path model,
    List<SaeSpec> saes,
    Optional<Path> adapter,
    List<Steering> steer,
    String prompt,
    int maxTokens,
    double temperature,
    double topP,
    long seed) {

  public GenerateSettings {
    Require.atLeast("--max-tokens", maxTokens, 1);
    Require.notNegative("--temperature", temperature);
    if (!(topP > 0 && topP <= 1)) {
      throw new InputException("--top-p " + topP + ": must be in (0, 1]");
    }
    for (int i = 0; i < steer.size(); i++) {
      Steering steering = steer.get(i);
      if (saes.stream().noneMatch(sae -> sae.layer() == steering.layer())) {
        throw new InputException(
            "--steer " + steering.layer() + ": there is no --sae at that layer");
      }
      if (steer.subList(0, i).stream().anyMatch(steering::holdsSameLatentAs)) {
        throw new InputException(
            "--steer %d:%d: is given twice, but a latent can be held at one value only"
                .formatted(steering.layer(), steering.latent()));
      }
    }
  }
}
