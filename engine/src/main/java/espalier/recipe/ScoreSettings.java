package espalier.recipe;

import espalier.format.InputException;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * Everything that {@code espalier score} is told.
 *
 * @param questions a file that {@link QuestionFile} reads
 * @param limit questions at most, the first ones
 * @param bos whether the model's BOS comes before every context
 * @param context tokens at most, the last ones; what is before them is cut off
 * @param details a file for the log-likelihood of every choice
 */
public record ScoreSettings(
    Path model,
    List<SaeSpec> saes,
    Optional<Path> adapter,
    Path questions,
    OptionalInt limit,
    boolean bos,
    int context,
    Optional<Path> details)
    implements VariantsSettings {

  public ScoreSettings {
    limit.ifPresent(n -> Require.atLeast("--limit", n, 1));
    Require.atLeast("--context", context, 2);
    if (saes.isEmpty() && adapter.isPresent()) {
      throw new InputException("--adapter needs the --sae that it was trained around");
    }
  }
}
