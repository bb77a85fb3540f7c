package espalier.recipe;

import java.nio.file.Path;
import java.util.List;
import java.util.Optional;

/** The options of {@code score}, {@code probe} and {@code steer} that name the model. */
interface VariantsSettings {

  Path model();

  List<SaeSpec> saes();

  Optional<Path> adapter();

  /** The most tokens of a text that are read; the model may take fewer. */
  int context();
}
