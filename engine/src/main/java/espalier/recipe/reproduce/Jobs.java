package espalier.recipe.reproduce;

import espalier.recipe.AdaptRecipe;
import espalier.recipe.AdaptSettings;
import espalier.recipe.Console;
import espalier.recipe.DemoModel;
import espalier.recipe.HeldOutWatch;
import espalier.recipe.PretrainRecipe;
import espalier.recipe.RowOrdering;
import espalier.recipe.SaeSpec;
import espalier.recipe.TrainSaeRecipe;
import espalier.recipe.TrainSaeSettings;
import espalier.train.Schedule;
import espalier.train.TrainingLoop;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * Turns tasks into runs of the other recipes. This is the only place that fills in their settings.
 */
final class Jobs {

  /**
   * A run writes a checkpoint whenever another {@code 1 / CHECKPOINTS} of its steps is done. An
   * interruption loses no more than that.
   */
  private static final int CHECKPOINTS = 8;

  private static final int WARMUP = 20;

  /** The bandwidth of thresholds. A TopK SAE has no thresholds and ignores it. */
  private static final double BANDWIDTH = 0.2;

  private final Setup setup;
  private final Folders folders;
  private final Console console;

  Jobs(Setup setup, Folders folders, Console console) {
    this.setup = setup;
    this.folders = folders;
    this.console = console;
  }

  /** Trains the demo's model, after writing its data. */
  TrainingLoop.End pretrain() {
    DemoModel.writeData(folders.modelData());
    boolean resume = Files.exists(folders.model().resolve("run.json"));
    return new PretrainRecipe(
            DemoModel.pretraining(
                folders.modelData(), folders.model(), DemoModel.STEPS, setup.seed(), resume),
            console)
        .run();
  }

  /**
   * Trains an SAE for a cell, with evaluations and snapshots. Continues a training that was
   * stopped.
   */
  TrainingLoop.End train(Task.TrainSae task, String cell) {
    Path out = folders.run(cell);
    Optional<Path> snapshots =
        task.keeps() ? Optional.of(folders.snapshots(cell)) : Optional.empty();
    HeldOutWatch watch =
        new HeldOutWatch(
            folders.evalRows(), task.layer(), every(task.steps(), task.evaluations()), snapshots);
    return new TrainSaeRecipe(
            settings(task, task.steps(), out, isThere(out)), console, Optional.of(watch))
        .run();
  }

  /** Trains an SAE for a few steps, without evaluations. */
  TrainingLoop.End train(Task.TrainSae task, int steps, Path out) {
    return new TrainSaeRecipe(settings(task, steps, out, false), console).run();
  }

  TrainingLoop.End adapt(Task.Adapt task, String cell) {
    Path out = folders.run(cell);
    int every = every(task.steps(), task.evaluations());
    return new AdaptRecipe(
            settings(
                task,
                task.saes().stream().map(sae -> sae.in(folders)).toList(),
                task.steps(),
                out,
                isThere(out),
                Optional.of(folders.evalRows()),
                every),
            console)
        .run();
  }

  TrainingLoop.End adapt(Task.Adapt task, List<SaeSpec> saes, int steps, Path out) {
    return new AdaptRecipe(settings(task, saes, steps, out, false, Optional.empty(), 0), console)
        .run();
  }

  private TrainSaeSettings settings(Task.TrainSae task, int steps, Path out, boolean resume) {
    return new TrainSaeSettings(
        setup.model(),
        task.layer(),
        "topk",
        task.objective(),
        setup.data(),
        out,
        task.latents(),
        task.k(),
        0,
        BANDWIDTH,
        setup.saeLr(),
        Schedule.LINEAR,
        Math.min(WARMUP, steps / 4),
        setup.batch(),
        setup.context(),
        OptionalInt.of(steps),
        setup.seed(),
        resume,
        checkpointEvery(steps));
  }

  private AdaptSettings settings(
      Task.Adapt task,
      List<SaeSpec> saes,
      int steps,
      Path out,
      boolean resume,
      Optional<Path> evalData,
      int evalEvery) {
    return new AdaptSettings(
        setup.model(),
        saes,
        setup.data(),
        out,
        task.train(),
        "kl",
        OptionalInt.of(task.rank()),
        AdaptSettings.DEFAULT_ALPHA,
        0,
        task.layers(),
        "both",
        setup.lr(),
        Schedule.LINEAR,
        0,
        0.01,
        1,
        setup.batch(),
        1,
        setup.context(),
        OptionalInt.of(steps),
        setup.seed(),
        evalData,
        evalEvery,
        Optional.empty(),
        RowOrdering.SHUFFLED,
        resume,
        checkpointEvery(steps));
  }

  private static boolean isThere(Path out) {
    return Files.exists(out.resolve("run.json"));
  }

  private static int every(int steps, int evaluations) {
    return Math.max(1, Math.ceilDiv(steps, evaluations));
  }

  private static int checkpointEvery(int steps) {
    return Math.max(1, Math.ceilDiv(steps, CHECKPOINTS));
  }
}
