package espalier.recipe;

import espalier.format.InputException;
import espalier.train.Schedule;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * Everything that {@code espalier pretrain} is told.
 *
 * @param config a {@code config.json}, beside which the tokenizer lies
 * @param steps not given: one pass over the data
 */
public record PretrainSettings(
    Path config,
    List<Path> data,
    Path out,
    int batch,
    int context,
    OptionalInt steps,
    double lr,
    Schedule schedule,
    int warmup,
    double weightDecay,
    double clip,
    long seed,
    boolean resume,
    int checkpointEvery,
    Optional<Path> evalData) {

  public PretrainSettings {
    Require.atLeast("--batch", batch, 1);
    Require.atLeast("--context", context, 2);
    steps.ifPresent(s -> Require.atLeast("--steps", s, 1));
    Require.positive("--lr", lr);
    Require.atLeast("--warmup", warmup, 0);
    Require.notNegative("--weight-decay", weightDecay);
    Require.notNegative("--clip", clip);
    Require.atLeast("--checkpoint-every", checkpointEvery, 1);
    if (data.isEmpty()) {
      throw new InputException("--data: at least one file is needed");
    }
  }
}
