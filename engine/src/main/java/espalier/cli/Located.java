package espalier.cli;

import espalier.hub.Hub;
import espalier.hub.HubContent;
import espalier.hub.HubSettings;
import espalier.recipe.Console;
import espalier.recipe.SaeSpec;
import java.nio.file.Path;
import java.util.Optional;

/**
 * Finds the models, adapters and SAEs that the command line names, on this machine or on the Hub.
 */
final class Located {

  private static final long MEGA = 1_000_000;

  private Located() {}

  static Path model(Path given) {
    return hub().locate(given, HubContent.MODEL);
  }

  /** Null stays null. */
  static Optional<Path> adapter(Path given) {
    return Optional.ofNullable(given).map(path -> hub().locate(path, HubContent.ADAPTER));
  }

  /** {@code LAYER=PATH}. */
  static SaeSpec sae(String text) {
    SaeSpec spec = SaeSpec.parse(text);
    return new SaeSpec(spec.layer(), hub().locate(spec.path(), HubContent.SAE));
  }

  /** A path that may be a model, an SAE or an adapter. */
  static Path anything(Path given) {
    return hub().locate(given, HubContent.ANY);
  }

  private static Hub hub() {
    return new Hub(HubSettings.of(System.getenv()), Located::begin);
  }

  private static Hub.Progress.Bar begin(String file, long bytes) {
    long total = Math.max(bytes, MEGA) / MEGA;
    Console.Progress progress = Console.standard().progress("download " + file, total);
    return new Hub.Progress.Bar() {
      private long shown;

      @Override
      public void accept(long done) {
        if (done / MEGA > shown) {
          shown = done / MEGA;
          progress.step(shown, "MB");
        }
      }

      @Override
      public void close() {
        progress.close();
      }
    };
  }
}
