package espalier.recipe.reproduce;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.DeviceChoice;
import espalier.device.ElementType;
import espalier.format.AtomicFiles;
import espalier.format.InputException;
import espalier.format.StrictJson;
import espalier.recipe.Console;
import espalier.recipe.OutputPath;
import espalier.recipe.RunFolder;
import espalier.recipe.SaeSpec;
import espalier.recipe.SettingsJson;
import espalier.recipe.TrainSaeRecipe;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Set;

/**
 * {@code espalier reproduce}: a comparison that the paper makes (Chen, Engels and Tegmark 2025), as
 * a grid of cells, each in a folder of its own. Cells that are done are left alone. So the same
 * command continues where it stopped, and any number of processes that share the folder can do the
 * cells.
 */
public final class ReproduceRecipe {

  /** Measuring takes some of the budget. At least this share is left for the run. */
  private static final double LEAST_LEFT = 0.4;

  private static final double MINUTE_MS = 60e3;
  private static final String RUN = "run.json";

  /** The files that may be in the folder before {@link #RUN} is. */
  private static final Set<String> OWN = Set.of("lock", RUN + ".tmp");

  private final ReproduceSettings settings;
  private final Console console;
  private final Folders folders;
  private final Setup setup;

  public ReproduceRecipe(ReproduceSettings settings, Console console) {
    this.settings = settings;
    this.console = console;
    folders = new Folders(settings.out());
    setup = Setup.of(settings, console::warn);
    checkData();
    // Whatever cannot become cells, or cannot be trained, is refused before anything is written.
    List<Cell> cells = Cells.of(setup, settings.plan().orElse(Budget.ANY));
    if (cells.stream().anyMatch(cell -> cell.task() instanceof Task.TrainSae)) {
      TrainSaeRecipe.requireFloat32(DeviceChoice.current().type());
    }
  }

  private void checkData() {
    if (setup.demo()) {
      return;
    }
    List<Path> files = new ArrayList<>(setup.data());
    files.add(setup.evalData());
    for (Path file : files) {
      if (!Files.isRegularFile(file)) {
        throw new InputException(file, "no such file");
      }
    }
  }

  /** Does all cells that are not done. Returns false if the user stopped it. */
  public boolean run() {
    Optional<Plan> plan = plan();
    if (plan.isEmpty()) {
      return false;
    }
    List<Cell> cells = Cells.of(setup, plan.get());
    CellRunner runner = new CellRunner(setup, plan.get(), cells, folders, console);
    long toDo = cells.stream().filter(cell -> !runner.isDone(cell)).count();
    console.info("%d of %d cells to do, %s".formatted(toDo, cells.size(), plan.get()));
    for (Cell cell : cells) {
      if (!runner.run(cell)) {
        console.info("stopped; the same command continues");
        return false;
      }
    }
    return true;
  }

  /** Does one cell and the cells that it needs. Returns false if the user stopped it. */
  public boolean run(String name) {
    settings.plan().ifPresent(plan -> find(Cells.of(setup, plan), name));
    Optional<Plan> plan = plan();
    if (plan.isEmpty()) {
      return false;
    }
    List<Cell> cells = Cells.of(setup, plan.get());
    Cell cell = find(cells, name);
    return new CellRunner(setup, plan.get(), cells, folders, console).run(cell);
  }

  private static Cell find(List<Cell> cells, String name) {
    return cells.stream()
        .filter(cell -> cell.name().equals(name))
        .findFirst()
        .orElseThrow(
            () ->
                new InputException(
                    "--cell %s: there is no such cell; --list lists them".formatted(name)));
  }

  /**
   * A command line for each cell; those that others need come first. Empty if the user stopped it.
   *
   * @param computing the options that say on which device and in which type to compute
   */
  public Optional<List<String>> list(String launcher, List<String> computing) {
    return plan()
        .map(
            plan -> {
              String common = commandLine(launcher, computing, plan);
              return Cells.of(setup, plan).stream()
                  .map(cell -> common + " --cell " + quoted(cell.name()))
                  .toList();
            });
  }

  /** Writes the results of the cells that are done. Returns the names of those that are not. */
  public List<String> collect() {
    Plan plan =
        settings
            .plan()
            .or(this::written)
            .orElseThrow(() -> new InputException(folders.out(), "holds no run to collect"));
    if (!Files.exists(folders.plan())) {
      throw new InputException(folders.out(), "holds no run to collect");
    }
    checkSame(plan);
    return Results.write(setup, plan, Cells.of(setup, plan), folders);
  }

  /**
   * The plan that the folder has, or else that of the command line, or else a new one, which is
   * written to the folder.
   */
  private Optional<Plan> plan() {
    checkFolder();
    Optional<Plan> written = written();
    if (written.isPresent()) {
      checkSame(settings.plan().orElse(written.get()));
      return written;
    }
    try (FolderLock _ = FolderLock.of(folders.out(), console)) {
      if (written().isPresent()) { // by whom we waited for
        return plan();
      }
      new RunFolder(folders.out()).begin("reproduce", SettingsJson.of(setup), setup.seed());
      Optional<Plan> given = settings.plan();
      given.ifPresent(plan -> writePlan(plan, JsonNodeFactory.instance.objectNode()));
      return given.or(this::measured);
    }
  }

  /** Refuses a folder that holds anything other than this run. */
  private void checkFolder() {
    Path out = folders.out();
    OutputPath.refuseFile("--out", out);
    if (Files.exists(out.resolve(RUN))) {
      checkSettings();
      return;
    }
    for (String entry : folders.entries()) {
      if (!OWN.contains(entry)) {
        throw new InputException(
            "--out " + settings.out() + ": holds other files, such as " + entry);
      }
    }
  }

  private Optional<Plan> measured() {
    long start = System.nanoTime();
    if (setup.demo()) {
      List<Cell> model = Cells.of(setup, Budget.ANY).subList(0, 1);
      if (!new CellRunner(setup, Budget.ANY, model, folders, console).run(model.getFirst())) {
        return Optional.empty();
      }
    }
    Budget budget = new Budget(setup, folders, console);
    return budget
        .measure()
        .map(
            speeds -> {
              double all = settings.budget() * MINUTE_MS;
              double taken = (System.nanoTime() - start) * 1e-6;
              Plan plan = budget.plan(speeds, Math.max(all - taken, LEAST_LEFT * all));
              writePlan(plan, speeds.toJson().put("budget_minutes", settings.budget()));
              return plan;
            });
  }

  private void writePlan(Plan plan, ObjectNode measured) {
    ObjectNode json = JsonNodeFactory.instance.objectNode().put("plan", plan.toString());
    json.setAll(measured);
    AtomicFiles.write(folders.plan(), json);
  }

  private Optional<Plan> written() {
    return Files.exists(folders.plan())
        ? Optional.of(Plan.parse(StrictJson.read(folders.plan()).text("plan")))
        : Optional.empty();
  }

  /** Refuses to continue a run that has another experiment, other data or another size. */
  private void checkSame(Plan plan) {
    checkSettings();
    if (!written().equals(Optional.of(plan))) {
      throw new InputException(
          "--out %s: holds a run with %s"
              .formatted(
                  settings.out(),
                  written().map(other -> "the plan " + other).orElse("no plan yet")));
    }
  }

  private void checkSettings() {
    StrictJson run = StrictJson.read(folders.out().resolve(RUN));
    ObjectNode mine = SettingsJson.of(setup);
    if (!run.text("command", "").equals("reproduce")
        || !run.raw("settings").equals(StrictJson.parse(run.file(), mine.toString()).copy())) {
      throw new InputException(
          "--out "
              + settings.out()
              + ": holds a run with other settings; repeat those, or give another folder");
    }
    String type = run.text("dtype", ElementType.F32.label());
    if (!type.equals(DeviceChoice.current().type().label())) {
      throw new InputException("--out " + settings.out() + ": holds a run with --dtype " + type);
    }
  }

  private String commandLine(String launcher, List<String> computing, Plan plan) {
    List<String> words =
        new ArrayList<>(List.of(launcher, "reproduce", setup.experiment().label()));
    words.addAll(List.of("--out", folders.out().toString()));
    if (!setup.demo()) {
      words.addAll(List.of("--model", setup.model().toString(), "--data"));
      setup.data().forEach(file -> words.add(file.toString()));
      words.addAll(List.of("--eval-data", setup.evalData().toString()));
      for (SaeSpec sae : setup.saes()) {
        words.addAll(List.of("--sae", sae.layer() + "=" + sae.path()));
      }
    }
    words.addAll(List.of("--layer", String.valueOf(setup.layer())));
    words.addAll(List.of("--latents", String.valueOf(setup.latents())));
    words.addAll(List.of("--k", String.valueOf(setup.k())));
    words.addAll(List.of("--rank", String.valueOf(setup.rank())));
    words.addAll(List.of("--layers", setup.adapted()));
    words.addAll(List.of("--batch", String.valueOf(setup.batch())));
    words.addAll(List.of("--context", String.valueOf(setup.context())));
    words.addAll(List.of("--lr", String.valueOf(setup.lr())));
    words.addAll(List.of("--sae-lr", String.valueOf(setup.saeLr())));
    words.addAll(List.of("--seed", String.valueOf(setup.seed())));
    words.addAll(computing);
    words.addAll(List.of("--plan", plan.toString()));
    return String.join(" ", words.stream().map(ReproduceRecipe::quoted).toList());
  }

  /** A word, quoted for a POSIX shell. */
  private static String quoted(String word) {
    return word.matches("[A-Za-z0-9_./=,:+@%-]+") ? word : "'" + word.replace("'", "'\\''") + "'";
  }
}
