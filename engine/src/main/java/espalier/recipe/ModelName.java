package espalier.recipe;

import espalier.hub.Hub;
import java.nio.file.Path;

/** What written files call the model that they belong to: others load it by that. */
final class ModelName {

  private ModelName() {}

  /** As PEFT does: the name on the Hub, or else the folder. */
  static String ofAdapter(Path model) {
    return Hub.repository(model).orElseGet(() -> absolute(model).toString());
  }

  /** As SAELens does, to which a folder's own name is enough. */
  static String ofSae(Path model) {
    return Hub.repository(model).orElseGet(() -> absolute(model).getFileName().toString());
  }

  private static Path absolute(Path model) {
    return model.toAbsolutePath().normalize();
  }
}
