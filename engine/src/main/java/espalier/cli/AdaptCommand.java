package espalier.cli;

import espalier.recipe.AdaptRecipe;
import espalier.recipe.AdaptSettings;
import espalier.recipe.Console;
import espalier.recipe.Parallel;
import espalier.recipe.RowOrdering;
import espalier.report.Report;
import espalier.train.Interruption;
import espalier.train.Schedule;
import espalier.train.TrainingLoop;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

@Command(
    name = "adapt",
    description =
        "Trains LoRA adapters around frozen SAEs until the model behaves like itself again.")
final class AdaptCommand implements Callable<Integer> {

  @Spec private CommandSpec spec;
  @Mixin private Common common;
  @Mixin private Computing computing;
  @Mixin private Spread spread;
  @Mixin private GradientOrder gradients;
  @Mixin private Sharding sharding;
  @Mixin private Profiling profiling;

  @Option(names = "--model", required = true, description = "model folder, or name on the Hub")
  private Path model;

  @Option(
      names = "--sae",
      required = true,
      paramLabel = "LAYER=PATH",
      description =
          "SAE at the output of block LAYER, counted from 0, or where in it its files say;"
              + " repeatable")
  private List<String> saes;

  @Option(
      names = "--data",
      required = true,
      arity = "1..*",
      paramLabel = "FILE",
      description =
          ".txt, .jsonl (field text), both also .gz or .zst, .parquet (column text),"
              + " or .npy (token ids [N, T])")
  private List<Path> data;

  @Option(names = "--out", required = true, description = "folder of the run and the adapter")
  private Path out;

  @Option(
      names = "--train",
      description =
          "lora; to compare with it: linear or mlp (an adapter at each SAE's output), sae (the SAEs"
              + " themselves), lora+sae (default: lora)")
  private String train = "lora";

  @Option(
      names = "--objective",
      description = "kl (to the original model) or ce (of the text) (default: kl)")
  private String objective = "kl";

  @Option(
      names = "--rank",
      description = "rank of the adapters (default: that of --init-adapter, else 64)")
  private Integer rank;

  @Option(
      names = "--alpha",
      description =
          "updates are scaled by alpha / rank (default: ${DEFAULT-VALUE}; an --init-adapter keeps"
              + " its own)")
  private double alpha = AdaptSettings.DEFAULT_ALPHA;

  @Option(names = "--dropout", description = "of the adapters' inputs (default: ${DEFAULT-VALUE})")
  private double dropout = 0.1;

  @Option(
      names = "--layers",
      description =
          "after (the first SAE), all, or 3,5-9 (default: ${DEFAULT-VALUE}; an --init-adapter keeps"
              + " its own)")
  private String layers = "after";

  @Option(
      names = "--targets",
      description =
          "both, attn, mlp, all-linear, or layer names (default: ${DEFAULT-VALUE}; an"
              + " --init-adapter keeps its own)")
  private String targets = "both";

  @Option(names = "--lr", description = "peak learning rate (default: ${DEFAULT-VALUE})")
  private double lr = 5e-5;

  @Option(names = "--schedule", description = "constant, linear or cosine (default: constant)")
  private Schedule schedule = Schedule.CONSTANT;

  @Option(names = "--warmup", description = "steps of warm-up (default: ${DEFAULT-VALUE})")
  private int warmup;

  @Option(names = "--weight-decay", description = "of AdamW (default: ${DEFAULT-VALUE})")
  private double weightDecay = 0.01;

  @Option(
      names = "--clip",
      description = "largest gradient norm, 0 for none (default: ${DEFAULT-VALUE})")
  private double clip = 1;

  @Option(names = "--batch", description = "rows at a time (default: ${DEFAULT-VALUE})")
  private int batch = 1;

  @Option(names = "--accumulate", description = "batches a step (default: ${DEFAULT-VALUE})")
  private int accumulate = 1;

  @Option(
      names = "--context",
      description = "tokens a row, when text is packed (default: ${DEFAULT-VALUE})")
  private int context = 1024;

  @Option(names = "--steps", description = "updates (default: one pass over the data)")
  private Integer steps;

  @Option(names = "--seed", description = "of initial values, order and dropout (default: 42)")
  private long seed = 42;

  @Option(names = "--eval-data", paramLabel = "FILE", description = "data to evaluate on")
  private Path evalData;

  @Option(
      names = "--eval-every",
      description = "steps between evaluations (default: first and last)")
  private int evalEvery;

  @Option(names = "--init-adapter", paramLabel = "DIR", description = "PEFT adapter to start from")
  private Path initAdapter;

  @Option(names = "--order", description = "shuffled or sequential (default: shuffled)")
  private RowOrdering order = RowOrdering.SHUFFLED;

  @Option(names = "--resume", description = "continue the run in --out from its last checkpoint")
  private boolean resume;

  @Option(
      names = "--checkpoint-every",
      description = "steps between checkpoints (default: ${DEFAULT-VALUE})")
  private int checkpointEvery = 100;

  @Override
  public Integer call() {
    computing.check();
    AdaptSettings settings =
        new AdaptSettings(
            Located.model(model),
            saes.stream().map(Located::sae).toList(),
            data,
            out,
            train,
            objective,
            rank == null ? OptionalInt.empty() : OptionalInt.of(rank),
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
            steps == null ? OptionalInt.empty() : OptionalInt.of(steps),
            seed,
            Optional.ofNullable(evalData),
            evalEvery,
            Located.adapter(initAdapter),
            order,
            resume,
            checkpointEvery);
    try (Interruption interruption = new Interruption()) {
      return spread.run(ranks -> adapt(settings, gradients.on(ranks, sharding), interruption));
    }
  }

  private int adapt(AdaptSettings settings, Parallel parallel, Interruption interruption) {
    Console console = Console.standard();
    if (initAdapter != null && parallel.ranks().isFirst()) {
      Given.among(spec, "--alpha", "--layers", "--targets")
          .forEach(o -> console.warn(o + " has no effect: an --init-adapter keeps its own"));
    }
    TrainingLoop.End end =
        new AdaptRecipe(settings, console, parallel).profile(profiling.file()).run(interruption);
    if (parallel.ranks().isFirst()) {
      Report.write(out);
    }
    return end == TrainingLoop.End.DONE ? 0 : 1;
  }
}
