package espalier.recipe;

import espalier.format.InputException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * {@code --steer LAYER:LATENT=VALUE}: a latent of the SAE at a layer is held at a value while text
 * is generated.
 */
public record Steering(int layer, int latent, double value) {

  private static final Pattern FORM =
      Pattern.compile("(\\d{1,6}):(\\d{1,9})=([-+]?\\d*\\.?\\d+(?:[eE][-+]?\\d+)?)");

  public static Steering parse(String text) {
    Matcher form = FORM.matcher(text);
    if (!form.matches()) {
      throw new InputException("--steer " + text + ": expected LAYER:LATENT=VALUE");
    }
    return new Steering(
        Integer.parseInt(form.group(1)),
        Integer.parseInt(form.group(2)),
        Double.parseDouble(form.group(3)));
  }

  /** Whether the other one holds the same latent, at whatever value. */
  boolean holdsSameLatentAs(Steering other) {
    return layer == other.layer && latent == other.latent;
  }
}
