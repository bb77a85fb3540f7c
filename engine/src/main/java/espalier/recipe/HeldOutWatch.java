package espalier.recipe;

import java.nio.file.Path;
import java.util.Locale;
import java.util.Optional;

/**
 * How an SAE is evaluated while it is trained.
 *
 * @param data to evaluate on
 * @param layer of the SAE
 * @param every steps between evaluations; 0: first and last only
 * @param snapshots folder into which each evaluation writes the SAE as it then is, named by {@link
 *     #snapshot}; empty for none
 */
public record HeldOutWatch(Path data, int layer, int every, Optional<Path> snapshots) {

  /** The SAE as it was after a step. */
  public static Path snapshot(Path snapshots, long step) {
    return snapshots.resolve(String.format(Locale.ROOT, "step-%06d", step));
  }
}
