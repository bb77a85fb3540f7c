package espalier.recipe;

import espalier.format.InputException;
import espalier.train.Schedule;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * The options of {@code espalier adapt}.
 *
 * @param train {@code lora}, {@code linear}, {@code mlp}, {@code sae} or {@code lora+sae}: see
 *     {@link AdaptTarget}
 * @param objective {@code kl} (to the original) or {@code ce} (of the text)
 * @param rank of the adapters; empty: the initial adapter's, or else {@value #DEFAULT_RANK}
 * @param alpha updates are scaled by alpha / rank
 * @param dropout of the adapters' inputs: the probability of leaving out an element, in [0, 1)
 * @param layers {@code after} the first SAE, {@code all}, or a list such as {@code 3,5-9}
 * @param targets {@code both}, {@code attn}, {@code mlp}, {@code all-linear}, or names of linear
 *     layers
 * @param lr peak learning rate
 * @param warmup steps over which the learning rate rises to its peak
 * @param clip largest global gradient norm; 0 for no clipping
 * @param batch rows of a micro-batch
 * @param accumulate micro-batches of a step, of each rank
 * @param context tokens of a row, where text is packed
 * @param steps updates; empty: one pass over the data
 * @param evalEvery steps between evaluations; 0: before the first step and after the last only
 * @param initAdapter a PEFT adapter to start from
 * @param checkpointEvery steps between checkpoints
 */
public record AdaptSettings(
    Path model,
    List<SaeSpec> saes,
    List<Path> data,
    Path out,
    String train,
    String objective,
    OptionalInt rank,
    double alpha,
    double dropout,
    String layers,
    String targets,
    double lr,
    Schedule schedule,
    int warmup,
    double weightDecay,
    double clip,
    int batch,
    int accumulate,
    int context,
    OptionalInt steps,
    long seed,
    Optional<Path> evalData,
    int evalEvery,
    Optional<Path> initAdapter,
    RowOrdering order,
    boolean resume,
    int checkpointEvery) {

  public static final int DEFAULT_RANK = 64;
  public static final double DEFAULT_ALPHA = 32;

  public AdaptSettings {
    AdaptTarget target = AdaptTarget.parse(train);
    if (!objective.equals("kl") && !objective.equals("ce")) {
      throw new InputException("--objective " + objective + ": supported are kl and ce");
    }
    if (initAdapter.isPresent() && !target.hasLora()) {
      throw new InputException(
          "--init-adapter: --train " + train + " trains no LoRA adapter that could start from it");
    }
    if (saes.isEmpty()) {
      throw new InputException("--sae: at least one is needed");
    }
    rank.ifPresent(r -> Require.atLeast("--rank", r, 1));
    Require.positive("--alpha", alpha);
    Require.fraction("--dropout", dropout);
    Require.positive("--lr", lr);
    Require.atLeast("--warmup", warmup, 0);
    Require.notNegative("--weight-decay", weightDecay);
    Require.notNegative("--clip", clip);
    Require.atLeast("--batch", batch, 1);
    Require.atLeast("--accumulate", accumulate, 1);
    Require.atLeast("--context", context, 2);
    steps.ifPresent(s -> Require.atLeast("--steps", s, 1));
    Require.atLeast("--eval-every", evalEvery, 0);
    Require.atLeast("--checkpoint-every", checkpointEvery, 1);
    if (evalEvery > 0 && evalData.isEmpty()) {
      throw new InputException("--eval-every needs --eval-data");
    }
  }

  /** What {@code train} names. */
  AdaptTarget target() {
    return AdaptTarget.parse(train);
  }
}
