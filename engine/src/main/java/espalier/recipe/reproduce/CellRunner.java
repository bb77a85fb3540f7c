package espalier.recipe.reproduce;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.TokenCache;
import espalier.data.TokenRows;
import espalier.format.AtomicFiles;
import espalier.format.ModelFolder;
import espalier.recipe.Console;
import espalier.recipe.Versions;
import espalier.train.TrainingLoop;
import java.nio.file.Files;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Function;
import java.util.stream.Collectors;

/**
 * Does cells. It leaves alone what others have done, continues what was stopped, and first does the
 * cells that a cell needs.
 */
final class CellRunner {

  private final Setup setup;
  private final Plan plan;
  private final Folders folders;
  private final Console console;
  private final Map<String, Cell> cells;
  private final Jobs jobs;

  CellRunner(Setup setup, Plan plan, List<Cell> cells, Folders folders, Console console) {
    this.setup = setup;
    this.plan = plan;
    this.folders = folders;
    this.console = console;
    this.cells = cells.stream().collect(Collectors.toMap(Cell::name, Function.identity()));
    jobs = new Jobs(setup, folders, console);
  }

  boolean isDone(Cell cell) {
    return Files.exists(folders.result(cell.name()));
  }

  /**
   * Does one cell.
   *
   * @return whether it is done now; false if the user stopped it
   */
  boolean run(Cell cell) {
    if (isDone(cell)) {
      return true;
    }
    for (String need : cell.needs()) {
      if (!run(cells.get(need))) {
        return false;
      }
    }
    if (!(cell.task() instanceof Task.Pretrain)) {
      writeEvalRows();
    }
    try (FolderLock _ = FolderLock.of(folders.cell(cell.name()), console)) {
      if (isDone(cell)) { // by whom we waited for
        return true;
      }
      console.info("cell " + cell.name());
      double load = Load.average();
      Optional<ObjectNode> outcome = outcome(cell);
      outcome.ifPresent(came -> write(cell, came, load));
      return outcome.isPresent();
    }
  }

  /** The result of the task; empty if the task did not finish. */
  private Optional<ObjectNode> outcome(Cell cell) {
    ObjectNode nothing = JsonNodeFactory.instance.objectNode();
    return switch (cell.task()) {
      case Task.Pretrain p -> ended(jobs.pretrain(), nothing);
      case Task.TrainSae task -> ended(jobs.train(task, cell.name()), nothing);
      case Task.Adapt task -> ended(jobs.adapt(task, cell.name()), nothing);
      case Task.Clock task -> {
        Clock clock = new Clock(setup, folders, folders.run(cell.name()));
        try (Console.Progress progress = console.progress("clock", task.rounds())) {
          yield clock.measure(task.arms(), task.rounds(), progress);
        }
      }
    };
  }

  private static Optional<ObjectNode> ended(TrainingLoop.End end, ObjectNode outcome) {
    return end == TrainingLoop.End.DONE ? Optional.of(outcome) : Optional.empty();
  }

  private void write(Cell cell, ObjectNode outcome, double load) {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("cell", cell.name());
    json.put("experiment", setup.experiment().label());
    json.put("arm", cell.arm());
    json.set("coordinates", cell.coordinates());
    json.put("plan", plan.toString());
    json.setAll(outcome);
    json.set("versions", Versions.json());
    json.put("git_revision", Versions.revision());
    json.set("machine", Versions.machine());
    json.put("load_at_start", load).put("load_at_end", Load.average());
    // Nothing goes on from here, and the moments are three times the weights.
    Folders.delete(folders.run(cell.name()).resolve("checkpoints"));
    AtomicFiles.write(folders.result(cell.name()), json);
  }

  /** Writes as many rows of the evaluation data as the plan says, evenly spread over the data. */
  private void writeEvalRows() {
    if (Files.exists(folders.evalRows())) {
      return;
    }
    try (FolderLock _ = FolderLock.of(folders.out(), console);
        ModelFolder files = ModelFolder.open(setup.model())) {
      TokenRows rows =
          TokenRows.read(
              List.of(setup.evalData()),
              files.config(),
              setup.model(),
              setup.context(),
              TokenCache.of(System.getenv(), console::warn));
      rows.spread(Math.min(plan.evalRows(), rows.count())).write(folders.evalRows());
    }
  }
}
