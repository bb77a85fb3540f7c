package espalier.recipe;

import java.nio.file.Path;
import java.util.List;
import java.util.Optional;

/** What a command is told of the model that it compares downstream. */
interface VariantsSettings {

  Path model();

  List<SaeSpec> saes();

  Optional<Path> adapter();

  /** Tokens of a text at most; no more than the model can take are read. */
  int context();
}
