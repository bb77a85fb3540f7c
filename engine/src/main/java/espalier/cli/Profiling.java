package espalier.cli;

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

  Optional<Path> file() {
    return Optional.ofNullable(file);
  }
}
