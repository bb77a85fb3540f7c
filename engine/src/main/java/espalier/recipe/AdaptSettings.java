package espalier.recipe;

import espalier.format.InputException;
import espalier.train.Schedule;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * Everything that {@code espalier adapt} is told.
 *
 * @param train {@code lora}, {@code linear}, {@code mlp}, {@code sae} or {@code lora+sae}
 * @param objective {@code kl} (to the original) or {@code ce} (of the text)
 * @param rank not given: the initial adapter's, or else 64
 * @param layers {@code after} the first SAE, {@code all}, or a list such as {@code 3,5-9}
 * @param targets {@code both}, {@code attn}, {@code mlp}, {@code all-linear}, or names of linear
 *     layers
 * @param steps not given: one pass over the data
 * @param evalEvery steps between evaluations; 0: first and last only
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

  /** Low-rank adapters, trained on the KL. */
  public AdaptSettings(
      Path model,
      List<SaeSpec> saes,
      List<Path> data,
      Path out,
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
    this(
        model,
        saes,
        data,
        out,
        "lora",
        "kl",
        rank,
        alpha,
        dropout,
        layers,
        targets,
        lr,
        schedule,
        warmup,
        weightDecay,
        clip,
        batch,
        accumulate,
        context,
        steps,
        seed,
        evalData,
        evalEvery,
        initAdapter,
        order,
        resume,
        checkpointEvery);
  }

  public AdaptSettings {
    AdaptTarget target = AdaptTarget.parse(train);
    if (!objective.equals("kl") && !objective.equals("ce")) {
      throw new InputException("--objective " + objective + ": supported are kl and ce");
    }
    if (initAdapter.isPresent() && !target.hasLora()) {
      throw new InputException("--init-adapter: --train " + train + " trains no such adapter");
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
}
