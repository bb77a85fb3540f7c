package espalier.recipe;

import java.nio.file.Path;

/**
 * Everything that {@code espalier demo} is told.
 *
 * @param scale share of the usual number of steps; tests run a small one
 */
public record DemoSettings(Path out, long seed, double scale) {

  public DemoSettings {
    Require.positive("--scale", scale);
  }
}
