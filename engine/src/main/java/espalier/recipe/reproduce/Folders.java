package espalier.recipe.reproduce;

import espalier.format.InputException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;

/** Where the files of a run are. */
record Folders(Path out) {

  Folders(Path out) {
    this.out = out.toAbsolutePath().normalize();
  }

  Path cell(String name) {
    return out.resolve("cells").resolve(name);
  }

  /** The folder of what a cell's job leaves: metrics, checkpoints, the SAE or adapter. */
  Path run(String cell) {
    return cell(cell).resolve("run");
  }

  /** The file with a cell's result, which is written when the cell is done. */
  Path result(String cell) {
    return cell(cell).resolve("cell.json");
  }

  /** The folder of the snapshots of a cell's SAE during its training. */
  Path snapshots(String cell) {
    return cell(cell).resolve("snapshots");
  }

  Path model() {
    return run("model");
  }

  Path modelData() {
    return cell("model").resolve("data");
  }

  /** The file with the rows that all cells are evaluated on. */
  Path evalRows() {
    return out.resolve("eval.npy");
  }

  Path plan() {
    return out.resolve("plan.json");
  }

  /** The names of the entries directly in the run's folder. */
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

  /** Deletes a folder of this run and everything in it, if it exists. */
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
