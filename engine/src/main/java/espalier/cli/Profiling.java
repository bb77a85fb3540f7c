package espalier.cli;

import espalier.format.InputException;
import java.nio.file.Files;
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

  /** Refuses a file that could not be written in the end. */
  Optional<Path> file() {
    if (file != null && !Files.isDirectory(file.toAbsolutePath().getParent())) {
      throw new InputException(
          "--profile %s: there is no folder %s".formatted(file, file.toAbsolutePath().getParent()));
    }
    return Optional.ofNullable(file);
  }
}
