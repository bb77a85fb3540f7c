package espalier.report;

import espalier.format.AtomicFiles;
import java.nio.file.Path;
import java.util.List;

/** Plots and tables of runs as one self-contained HTML page. */
public final class Report {

  private Report() {}

  /** Writes {@code report.html} into a run's folder. */
  public static void write(Path run) {
    write(List.of(run), run.resolve("report.html"));
  }

  /**
   * Writes one page about several runs.
   *
   * @throws espalier.format.InputException if a folder holds no run, or a file in it is not what it
   *     should be
   */
  public static void write(List<Path> runs, Path file) {
    AtomicFiles.write(file, Page.of(runs.stream().map(RunData::read).toList()));
  }
}
