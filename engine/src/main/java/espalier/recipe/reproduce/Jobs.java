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

/** Turns tasks into runs of the other recipes: the one place that fills in their settings. */
final class Jobs {

  /** Checkpoints of a run: as many steps are lost at most as a share of this. */
  private static final int CHECKPOINTS = 8;

  private static final int WARMUP = 20;

  /** Of thresholds, which a TopK SAE has none of. */
  private static final double BANDWIDTH = 0.2;

  private final Setup setup;
  private final Folders folders;
  private final Console console;

  Jobs(Setup setup, Folders folders, Console console) {
    this.setup = setup;
    this.folders = folders;
    this.console = console;
  }

  /** Trains the demo's model, its data written before. */
  TrainingLoop.End pretrain() {
    DemoModel.writeData(folders.modelData());
    boolean resume = Files.exists(folders.model().resolve("run.json"));
    return new PretrainRecipe(
            DemoModel.pretraining(
                folders.modelData(), folders.model(), DemoModel.STEPS, setup.seed(), resume),
            console)
        .run();
  }

  /** As a cell does it, evaluated and with snapshots; goes on with what is there. */
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

  /** A few steps of the same, which nobody evaluates. */
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
