package espalier.recipe;

import espalier.format.InputException;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Everything that {@code espalier steer} is told.
 *
 * @param layer of the SAE, after which its direction is added
 * @param latent whose decoder row, at norm 1, is the direction
 * @param strengths multiples that are added
 * @param positive texts that the latent stands for
 * @param negative other texts
 * @param context tokens of a text at most, the first ones
 */
public record SteerSettings(
    Path model,
    List<SaeSpec> saes,
    Optional<Path> adapter,
    int layer,
    int latent,
    List<Double> strengths,
    Path positive,
    Path negative,
    int context)
    implements VariantsSettings {

  private static final Pattern FORM = Pattern.compile("(\\d{1,6}):(\\d{1,9})");

  public SteerSettings {
    int at = layer;
    if (saes.stream().noneMatch(sae -> sae.layer() == at)) {
      throw new InputException(
          "--latent " + layer + ":" + latent + ": there is no --sae at that layer");
    }
    if (strengths.isEmpty() || strengths.stream().anyMatch(s -> !Double.isFinite(s))) {
      throw new InputException("--strength: expected one or more numbers");
    }
    Require.atLeast("--context", context, 2);
  }

  /** Layer and latent of {@code LAYER:LATENT}. */
  public static int[] latent(String text) {
    Matcher form = FORM.matcher(text);
    if (!form.matches()) {
      throw new InputException("--latent " + text + ": expected LAYER:LATENT");
    }
    return new int[] {Integer.parseInt(form.group(1)), Integer.parseInt(form.group(2))};
  }
}
