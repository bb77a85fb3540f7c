package espalier.cli;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** A command in a process of its own, for what this one cannot have: signals, another stdout. */
final class CommandProcess {

  private final Process process;
  private final Path err;

  private CommandProcess(Process process, Path err) {
    this.process = process;
    this.err = err;
  }

  /**
   * @param out where standard output goes
   */
  static CommandProcess start(ProcessBuilder.Redirect out, String... arguments) throws IOException {
    List<String> command =
        new ArrayList<>(
            List.of(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-Xlog:disable",
                "--enable-native-access=ALL-UNNAMED",
                "-cp",
                System.getProperty(
                    "surefire.test.class.path", System.getProperty("java.class.path")),
                Main.class.getName()));
    command.addAll(List.of(arguments));
    Path err = Files.createTempFile("command", ".err");
    return new CommandProcess(
        new ProcessBuilder(command).redirectOutput(out).redirectError(err.toFile()).start(), err);
  }

  Process process() {
    return process;
  }

  /** What it has said on the error stream so far. */
  String error() throws IOException {
    return Files.readString(err);
  }

  /** Its exit code. */
  int await() throws InterruptedException {
    return process.waitFor();
  }
}
