package espalier.cli;

import espalier.report.Report;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

@Command(
    name = "report",
    description = "Writes plots and tables of one run, or of several side by side, as HTML.")
final class ReportCommand implements Callable<Integer> {

  @Mixin private Common common;

  @Parameters(arity = "1..*", paramLabel = "RUN_DIR", description = "folders of runs")
  private List<Path> runs;

  @Option(
      names = "--out",
      paramLabel = "FILE",
      description = "default: report.html in the first folder")
  private Path out;

  @Override
  public Integer call() {
    Path file = out == null ? runs.getFirst().resolve("report.html") : out;
    Report.write(runs, file);
    System.out.println(file);
    return 0;
  }
}
