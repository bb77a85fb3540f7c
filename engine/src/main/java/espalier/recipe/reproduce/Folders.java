package espalier.recipe.reproduce;

import espalier.format.InputException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;

/** Where everything of a run lies. */
record Folders(Path out) {

  Folders(Path out) {
    this.out = out.toAbsolutePath().normalize();
  }

  Path cell(String name) {
    return out.resolve("cells").resolve(name);
  }

  /** What a cell's job leaves: metrics, checkpoints, the SAE or adapter. */
  Path run(String cell) {
    return cell(cell).resolve("run");
  }

  /** Written when a cell is done, and what it came to. */
  Path result(String cell) {
    return cell(cell).resolve("cell.json");
  }

  /** SAEs as they were in training. */
  Path snapshots(String cell) {
    return cell(cell).resolve("snapshots");
  }

  Path model() {
    return run("model");
  }

  Path modelData() {
    return cell("model").resolve("data");
  }

  /** The rows that all cells are evaluated on. */
  Path evalRows() {
    return out.resolve("eval.npy");
  }

  Path plan() {
    return out.resolve("plan.json");
  }

  /** Names of what lies directly in the run's folder. */
  List<String> entries() {
    if (!Files.exists(out)) {
      return List.of();
    }
    try (Stream<Path> entries = Files.list(out)) {
      return entries.map(entry -> entry.getFileName().toString()).sorted().toList();
    } catch (IOException e) {
      throw new InputException(out, "cannot be listed");
    }
  }

  Path scratch() {
    return out.resolve("scratch");
  }

  /** Deletes a folder of this run's with all that is in it, if it is there. */
  static void delete(Path folder) {
    if (!Files.exists(folder)) {
      return;
    }
    try (Stream<Path> files = Files.walk(folder)) {
      for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
        Files.delete(file);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(folder + " cannot be deleted", e);
    }
  }
}
