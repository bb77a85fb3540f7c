package espalier.cli;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** Whether results got to where standard output leads: Java's stream keeps failures to itself. */
final class StandardOutput {

  private static final Path STDOUT = Path.of("/proc/self/fd/1");

  private StandardOutput() {}

  /** Lost on a full disk, say; not where a reader has seen enough, as {@code head} has. */
  static boolean isLost() {
    return System.out.checkError() && !hasReader();
  }

  /** To a pipe or socket writing fails for one reason: nobody reads any more. */
  private static boolean hasReader() {
    try {
      String target = Files.readSymbolicLink(STDOUT).toString();
      return target.startsWith("pipe:") || target.startsWith("socket:");
    } catch (IOException closed) {
      return false;
    }
  }
}
