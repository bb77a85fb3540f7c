package espalier.cli;

import espalier.recipe.Console;
import espalier.recipe.TrainSaeRecipe;
import espalier.recipe.TrainSaeSettings;
import espalier.report.Report;
import espalier.train.Schedule;
import espalier.train.TrainingLoop;
import java.nio.file.Path;
import java.util.List;
import java.util.OptionalInt;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
    name = "train-sae",
    description = "Trains an SAE on a model's activations, written in SAELens' layout.")
final class TrainSaeCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;

  @Option(names = "--model", required = true, description = "model folder, or name on the Hub")
  private Path model;

  @Option(names = "--layer", required = true, description = "block whose output is learnt, from 0")
  private int layer;

  @Option(names = "--arch", description = "topk, jumprelu or standard (default: topk)")
  private String arch = "topk";

  @Option(
      names = "--objective",
      description = "mse (its own error) or e2e (KL through the model) (default: mse)")
  private String objective = "mse";

  @Option(
      names = "--data",
      required = true,
      arity = "1..*",
      paramLabel = "FILE",
      description =
          ".txt, .jsonl (field text), both also .gz or .zst, .parquet (column text),"
              + " or .npy (token ids [N, T])")
  private List<Path> data;

  @Option(names = "--out", required = true, description = "folder of the run and the SAE")
  private Path out;

  @Option(names = "--latents", description = "width of the SAE (default: ${DEFAULT-VALUE})")
  private int latents = 4096;

  @Option(
      names = "--k",
      description =
          "active latents a token: exactly for topk, aimed at for jumprelu"
              + " (default: ${DEFAULT-VALUE})")
  private int k = 32;

  @Option(names = "--l1", description = "sparsity of a standard SAE (default: ${DEFAULT-VALUE})")
  private double l1 = 0.01;

  @Option(
      names = "--bandwidth",
      description = "of the thresholds' gradient (default: ${DEFAULT-VALUE})")
  private double bandwidth = 0.2;

  @Option(names = "--lr", description = "peak learning rate (default: ${DEFAULT-VALUE})")
  private double lr = 5e-4;

  @Option(names = "--schedule", description = "constant, linear or cosine (default: linear)")
  private Schedule schedule = Schedule.LINEAR;

  @Option(names = "--warmup", description = "steps of warm-up (default: ${DEFAULT-VALUE})")
  private int warmup = 100;

  @Option(names = "--batch", description = "rows at a time (default: ${DEFAULT-VALUE})")
  private int batch = 4;

  @Option(
      names = "--context",
      description = "tokens a row, when text is packed (default: ${DEFAULT-VALUE})")
  private int context = 512;

  @Option(names = "--steps", description = "updates (default: one pass over the data)")
  private Integer steps;

  @Option(names = "--seed", description = "of initial values and order (default: 42)")
  private long seed = 42;

  @Option(names = "--resume", description = "continue the run in --out from its last checkpoint")
  private boolean resume;

  @Option(
      names = "--checkpoint-every",
      description = "steps between checkpoints (default: ${DEFAULT-VALUE})")
  private int checkpointEvery = 500;

  @Override
  public Integer call() {
    computing.check();
    TrainSaeSettings settings =
        new TrainSaeSettings(
            Located.model(model),
            layer,
            arch,
            objective,
            data,
            out,
            latents,
            k,
            l1,
            bandwidth,
            lr,
            schedule,
            warmup,
            batch,
            context,
            steps == null ? OptionalInt.empty() : OptionalInt.of(steps),
            seed,
            resume,
            checkpointEvery);
    TrainingLoop.End end = new TrainSaeRecipe(settings, Console.standard()).run();
    Report.write(out);
    return end == TrainingLoop.End.DONE ? 0 : 1;
  }
}
