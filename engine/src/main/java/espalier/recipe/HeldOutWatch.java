package espalier.recipe;

import java.nio.file.Path;
import java.util.Locale;
import java.util.Optional;

/**
 * On what an SAE is evaluated while it is trained.
 *
 * @param every steps between evaluations; 0: first and last only
 * @param snapshots where {@link #snapshot} says the SAE is kept as it then is; empty to keep none
 */
public record HeldOutWatch(Path data, int layer, int every, Optional<Path> snapshots) {

  /** The SAE as it was after a step. */
  public static Path snapshot(Path snapshots, long step) {
    return snapshots.resolve(String.format(Locale.ROOT, "step-%06d", step));
  }
}
