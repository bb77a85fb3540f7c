package espalier.report;

import espalier.format.AtomicFiles;
import espalier.format.InputException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/** Writes plots and tables of runs as one HTML page that needs no other file and no network. */
public final class Report {

  private Report() {}

  /** Writes {@code report.html} into a run's folder. */
  public static void write(Path run) {
    write(List.of(run), run.resolve("report.html"));
  }

  /**
   * Writes one page about several runs. It shows what the folders hold; what is missing there is
   * left out.
   *
   * @param runs folders of runs, or folders that hold folders of runs
   * @throws InputException if a folder holds no run, a file in it is not what it should be, or
   *     there is no folder to write the page to
   */
  public static void write(List<Path> runs, Path file) {
    String page = Page.of(Run.readAll(runs));
    Path folder = file.toAbsolutePath().getParent();
    if (Files.isDirectory(file)) {
      throw new InputException(file, "is a folder; the page needs the name of a file");
    }
    if (!Files.isDirectory(folder)) {
      throw new InputException(file, "cannot be written: no such folder");
    }
    AtomicFiles.write(file, page);
  }
}
