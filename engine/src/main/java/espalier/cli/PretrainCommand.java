package espalier.cli;

import espalier.recipe.Console;
import espalier.recipe.PretrainRecipe;
import espalier.recipe.PretrainSettings;
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
import picocli.CommandLine.Option;

@Command(
    name = "pretrain",
    description = "Trains a small language model from nothing, in Hugging Face's layout.")
final class PretrainCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;

  @Option(
      names = "--config",
      required = true,
      paramLabel = "FILE",
      description = "config.json, with the tokenizer beside it")
  private Path config;

  @Option(
      names = "--data",
      required = true,
      arity = "1..*",
      paramLabel = "FILE",
      description =
          ".txt, .jsonl (field text), both also .gz or .zst, .parquet (column text),"
              + " or .npy (token ids [N, T])")
  private List<Path> data;

  @Option(names = "--out", required = true, description = "folder of the run and the model")
  private Path out;

  @Option(names = "--batch", description = "rows at a time (default: ${DEFAULT-VALUE})")
  private int batch = 16;

  @Option(
      names = "--context",
      description = "tokens a row, when text is packed (default: ${DEFAULT-VALUE})")
  private int context = 256;

  @Option(names = "--steps", description = "updates (default: one pass over the data)")
  private Integer steps;

  @Option(names = "--lr", description = "peak learning rate (default: ${DEFAULT-VALUE})")
  private double lr = 1e-3;

  @Option(names = "--schedule", description = "constant, linear or cosine (default: cosine)")
  private Schedule schedule = Schedule.COSINE;

  @Option(names = "--warmup", description = "steps of warm-up (default: ${DEFAULT-VALUE})")
  private int warmup = 100;

  @Option(names = "--weight-decay", description = "of AdamW (default: ${DEFAULT-VALUE})")
  private double weightDecay = 0.1;

  @Option(
      names = "--clip",
      description = "largest gradient norm, 0 for none (default: ${DEFAULT-VALUE})")
  private double clip = 1;

  @Option(names = "--seed", description = "of initial values and order (default: 42)")
  private long seed = 42;

  @Option(names = "--eval-data", paramLabel = "FILE", description = "evaluated first and last")
  private Path evalData;

  @Option(names = "--resume", description = "continue the run in --out from its last checkpoint")
  private boolean resume;

  @Option(
      names = "--checkpoint-every",
      description = "steps between checkpoints (default: ${DEFAULT-VALUE})")
  private int checkpointEvery = 500;

  @Override
  public Integer call() {
    computing.check();
    PretrainSettings settings =
        new PretrainSettings(
            config,
            data,
            out,
            batch,
            context,
            steps == null ? OptionalInt.empty() : OptionalInt.of(steps),
            lr,
            schedule,
            warmup,
            weightDecay,
            clip,
            seed,
            resume,
            checkpointEvery,
            Optional.ofNullable(evalData));
    try (Interruption interruption = new Interruption()) {
      TrainingLoop.End end = new PretrainRecipe(settings, Console.standard()).run(interruption);
      Report.write(out);
      return end == TrainingLoop.End.DONE ? 0 : 1;
    }
  }
}
