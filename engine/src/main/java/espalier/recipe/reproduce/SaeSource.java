package espalier.recipe.reproduce;

import espalier.recipe.HeldOutWatch;
import espalier.recipe.SaeSpec;
import java.nio.file.Path;
import java.util.Optional;

/**
 * An SAE to adapt around.
 *
 * @param given where it is, if the user gave it
 * @param cell the cell that trains it, if the user did not
 * @param step the step after which it is taken; 0: at the end
 */
record SaeSource(int layer, Optional<Path> given, String cell, int step) {

  static SaeSource trained(int layer, String cell) {
    return new SaeSource(layer, Optional.empty(), cell, 0);
  }

  static SaeSource snapshot(int layer, String cell, int step) {
    return new SaeSource(layer, Optional.empty(), cell, step);
  }

  static SaeSource given(SaeSpec sae) {
    return new SaeSource(sae.layer(), Optional.of(sae.path()), "", 0);
  }

  SaeSpec in(Folders folders) {
    Path path =
        given.orElseGet(
            () ->
                step == 0
                    ? folders.run(cell)
                    : HeldOutWatch.snapshot(folders.snapshots(cell), step));
    return new SaeSpec(layer, path);
  }
}
