package espalier.cli;

import espalier.recipe.OutputPath;
import java.nio.file.Path;
import java.util.Optional;
import picocli.CommandLine.Option;

/** Option of commands that take steps. */
final class Profiling {

  @Option(
      names = "--profile",
      paramLabel = "FILE",
      description =
          "where the time of a step goes: a table by operation and kernel, and in FILE a time line"
              + " for ui.perfetto.dev")
  private Path file;

  /** The file to write; refused now if it could not be written in the end. */
  Optional<Path> file() {
    Optional<Path> asked = Optional.ofNullable(file);
    asked.ifPresent(path -> OutputPath.checkFile("--profile", path));
    return asked;
  }
}
