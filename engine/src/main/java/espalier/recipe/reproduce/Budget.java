package espalier.recipe.reproduce;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.TokenCache;
import espalier.data.TokenRows;
import espalier.format.ModelFolder;
import espalier.recipe.Console;
import espalier.recipe.EvaluateRecipe;
import espalier.recipe.EvaluateSettings;
import espalier.recipe.MetricSet;
import espalier.recipe.SaeSpec;
import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.Optional;

/**
 * Makes a plan that takes as long as the user wants. It measures a step of each kind where the grid
 * has its slowest one, and solves for tau, the time for which each adapter is trained. SAEs are
 * trained for {@link #saeShare} tau, end-to-end SAEs for {@link #endToEndShare} tau. The experiment
 * gets the largest grid in which adapters are trained for at least {@link #USUAL_STEPS} steps.
 */
final class Budget {

  /** If adapters would be trained for fewer steps than this, the grid is made smaller. */
  private static final int USUAL_STEPS = 40;

  /** Fewer steps than this would say nothing at all. */
  private static final int LEAST_STEPS = 4;

  /** The largest share of the budget that evaluations may take. */
  private static final double EVALUATIONS = 0.2;

  /** The cross-entropy of fewer tokens than this is mostly noise. */
  private static final int LEAST_TOKENS = 4096;

  private static final int MEASURED_ROWS = 4;
  private static final int SNAPSHOTS = 10;

  /** A plan with every cell that there may be, each as small as possible. */
  static final Plan ANY = new Plan(Grid.FULL, SNAPSHOTS, 1, 1, 1);

  private final Setup setup;
  private final Folders folders;
  private final Console console;

  Budget(Setup setup, Folders folders, Console console) {
    this.setup = setup;
    this.folders = folders;
    this.console = console;
  }

  /**
   * How long things take, as measured.
   *
   * @param saeMs milliseconds of a step that trains an SAE, as likewise those of the other two
   *     kinds
   * @param rowMs milliseconds to evaluate a row, with and without an SAE
   * @param cellMs milliseconds that a cell takes besides its steps
   * @param rows the number of rows of the evaluation data
   * @param context the tokens of each row
   */
  record Speeds(
      double saeMs,
      double adaptMs,
      double endToEndMs,
      double rowMs,
      double cellMs,
      int rows,
      int context) {
    ObjectNode toJson() {
      return JsonNodeFactory.instance
          .objectNode()
          .put("sae_step_ms", saeMs)
          .put("lora_step_ms", adaptMs)
          .put("e2e_step_ms", endToEndMs)
          .put("eval_row_ms", rowMs)
          .put("cell_ms", cellMs);
    }
  }

  /**
   * What the cells of a plan add up to: training in units of tau, the clock's time, how many cells
   * there are, and how many evaluations.
   */
  private record Work(double taus, double clockMs, int cells, int evaluations) {}

  /** Measures a few steps of each kind. Empty if the user stopped it. */
  Optional<Speeds> measure() {
    console.info("measuring a few steps of each kind, to plan the run");
    List<Task> tasks = Cells.of(setup, ANY).stream().map(Cell::task).toList();
    Optional<Task.TrainSae> widest = slowestSae(tasks, "mse");
    Optional<Task.TrainSae> endToEnd = slowestSae(tasks, "e2e");
    Task.Adapt adapt =
        tasks.stream()
            .filter(Task.Adapt.class::isInstance)
            .map(Task.Adapt.class::cast)
            .max(
                Comparator.comparing((Task.Adapt a) -> a.saes().size())
                    .thenComparing(Task.Adapt::rank))
            .orElseThrow();
    Path trained = folders.scratch().resolve("sae");
    Clock first = new Clock(setup, folders, trained);
    Clock second = new Clock(setup, folders, folders.scratch().resolve("slice"));
    Optional<double[]> sae =
        widest
            .map(task -> first.slice(task, Optional.empty()))
            .orElse(Optional.of(new double[] {0}));
    Optional<double[]> e2e =
        endToEnd
            .map(task -> second.slice(task, Optional.empty()))
            .orElse(Optional.of(new double[] {0}));
    if (sae.isEmpty() || e2e.isEmpty()) {
      return Optional.empty();
    }
    long start = System.nanoTime();
    Optional<double[]> steps = second.slice(adapt, widest.map(task -> trained));
    if (steps.isEmpty()) {
      return Optional.empty();
    }
    double adaptMs = Clock.median(steps.get());
    double cellMs = Math.max(0, elapsedMs(start) - (steps.get().length + 2) * adaptMs);
    SaeSource source = adapt.saes().getFirst();
    SaeSpec spliced =
        widest.map(task -> new SaeSpec(task.layer(), trained)).orElseGet(() -> source.in(folders));
    TokenRows evalData = evalData();
    int rows = evalData.count();
    // A row takes at least as long as in training, without what training does after two passes.
    double least = adaptMs / setup.batch() / 3;
    double measured = (evaluation(spliced) - cellMs) / Math.min(MEASURED_ROWS, rows);
    double rowMs = Math.max(least, measured);
    Folders.delete(folders.scratch());
    return Optional.of(
        new Speeds(
            Clock.median(sae.get()),
            adaptMs,
            Clock.median(e2e.get()),
            rowMs,
            cellMs,
            rows,
            evalData.context()));
  }

  private static Optional<Task.TrainSae> slowestSae(List<Task> tasks, String objective) {
    return tasks.stream()
        .filter(Task.TrainSae.class::isInstance)
        .map(Task.TrainSae.class::cast)
        .filter(task -> task.objective().equals(objective))
        .max(
            Comparator.comparingInt(Task.TrainSae::latents)
                .thenComparingInt(Task.TrainSae::layer)
                .thenComparingInt(Task.TrainSae::k));
  }

  /**
   * How many milliseconds an evaluation of a few rows takes, including the reading of the model.
   */
  private double evaluation(SaeSpec sae) {
    Path rows = folders.scratch().resolve("rows.npy");
    TokenRows all = evalData();
    all.spread(Math.min(MEASURED_ROWS, all.count())).write(rows);
    Console quiet =
        Console.to(new PrintStream(OutputStream.nullOutputStream(), false, StandardCharsets.UTF_8));
    long start = System.nanoTime();
    new EvaluateRecipe(
            new EvaluateSettings(
                setup.model(),
                List.of(sae),
                Optional.empty(),
                List.of(rows),
                setup.context(),
                MetricSet.BASIC,
                Optional.empty()),
            quiet)
        .run();
    return elapsedMs(start);
  }

  private TokenRows evalData() {
    try (ModelFolder files = ModelFolder.open(setup.model())) {
      return TokenRows.read(
          List.of(setup.evalData()),
          files.config(),
          setup.model(),
          setup.context(),
          TokenCache.of(System.getenv(), console::warn));
    }
  }

  private static double elapsedMs(long start) {
    return (System.nanoTime() - start) * 1e-6;
  }

  /**
   * Makes a plan.
   *
   * @param milliseconds how long all cells together may take
   */
  Plan plan(Speeds speeds, double milliseconds) {
    for (Grid grid : List.of(Grid.FULL, Grid.MEDIUM)) {
      Plan plan = plan(grid, speeds, milliseconds);
      if (plan.steps() >= USUAL_STEPS) {
        return plan;
      }
    }
    return plan(Grid.SMALL, speeds, milliseconds);
  }

  private Plan plan(Grid grid, Speeds speeds, double milliseconds) {
    Work work = work(grid, speeds);
    double left = milliseconds - work.cells * speeds.cellMs - work.clockMs;
    double affordable = EVALUATIONS * Math.max(0, left) / (work.evaluations * speeds.rowMs);
    int evalRows =
        (int)
            Math.clamp(
                affordable,
                Math.min(Math.ceilDiv(LEAST_TOKENS, speeds.context), speeds.rows),
                speeds.rows);
    double evaluating = evalRows * work.evaluations * speeds.rowMs;
    double tau = Math.max(0, left - evaluating) / work.taus;
    int steps = steps(tau, speeds.adaptMs);
    int sae = speeds.saeMs > 0 ? steps(saeShare(grid) * tau, speeds.saeMs) : steps;
    int endToEnd =
        speeds.endToEndMs > 0 ? steps(endToEndShare(grid) * tau, speeds.endToEndMs) : steps;
    return new Plan(grid, Math.ceilDiv(sae, SNAPSHOTS) * SNAPSHOTS, steps, endToEnd, evalRows);
  }

  private static int steps(double ms, double stepMs) {
    return Math.max(LEAST_STEPS, (int) Math.min(ms / stepMs, 1 << 24));
  }

  /** How long an SAE is trained, in units of an adapter's training time. */
  private int saeShare(Grid grid) {
    if (setup.experiment() != Experiment.TIMING) {
      return 2;
    }
    return switch (grid) {
      case FULL -> 8;
      case MEDIUM -> 6;
      case SMALL -> 4;
    };
  }

  /**
   * How long an end-to-end SAE is trained, in the same units: more than twice as long as SAE and
   * adapter together, so that it can catch up with them.
   */
  private int endToEndShare(Grid grid) {
    return setup.experiment() == Experiment.TIMING ? 5 * saeShare(grid) / 2 : 3;
  }

  private Work work(Grid grid, Speeds speeds) {
    double taus = 0;
    double clockMs = 0;
    int evaluations = 0;
    List<Cell> cells = Cells.of(setup, new Plan(grid, SNAPSHOTS, 1, 1, 1));
    for (Cell cell : cells) {
      switch (cell.task()) {
        case Task.TrainSae task -> {
          taus += task.objective().equals("mse") ? saeShare(grid) : endToEndShare(grid);
          evaluations += task.evaluations() + 1;
        }
        case Task.Adapt task -> {
          taus += 1;
          evaluations += task.evaluations() + 2; // the first measures with and without adapters
        }
        case Task.Clock clock ->
            clockMs += clock.rounds() * clock.arms().size() * (speeds.cellMs + 6 * speeds.adaptMs);
        case Task.Pretrain done -> {}
      }
    }
    return new Work(taus, clockMs, cells.size(), evaluations);
  }
}
