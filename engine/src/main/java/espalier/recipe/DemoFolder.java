package espalier.recipe;

import espalier.format.InputException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.Set;
import java.util.stream.Stream;

/**
 * The folder of a demo. A demo may be run again and again, so what an earlier one left is cleared
 * away; anything else is somebody's, and never deleted.
 */
final class DemoFolder {

  private static final String RUN = "run.json";
  private static final Set<String> OWN =
      Set.of(
          RUN,
          "data",
          "model",
          "sae-topk",
          "sae-jumprelu",
          "sae-e2e",
          "adapter",
          "metrics.jsonl",
          "results.json",
          "latent_density.json",
          "report.html");

  private DemoFolder() {}

  /**
   * Clears an earlier demo away; a folder that is empty or absent is left so.
   *
   * @throws InputException if {@code out} is no folder, or holds what no demo made; then nothing is
   *     deleted
   */
  static void clear(Path out) {
    OutputPath.refuseFile("--out", out);
    if (!Files.exists(out)) {
      return;
    }
    List<Path> entries = list(out);
    for (Path entry : entries) {
      if (!isOwn(entry.getFileName().toString())) {
        throw new InputException(
            "--out "
                + out
                + ": holds "
                + entry.getFileName()
                + ", which no demo made; give a folder that is new or empty");
      }
    }
    if (!entries.isEmpty() && !holdsDemo(out.resolve(RUN))) {
      throw new InputException(
          "--out " + out + ": holds something that is no demo; give a folder that is new or empty");
    }
    // run.json last: until then, a clearing that was cut short is recognised and done again.
    entries.stream().filter(entry -> !entry.endsWith(RUN)).forEach(DemoFolder::delete);
    entries.stream().filter(entry -> entry.endsWith(RUN)).forEach(DemoFolder::delete);
  }

  /** What the demo writes, whole or cut off while it was written. */
  private static boolean isOwn(String name) {
    return OWN.contains(name.endsWith(".tmp") ? name.substring(0, name.length() - 4) : name);
  }

  private static boolean holdsDemo(Path run) {
    try {
      return Files.exists(run) && Files.readString(run).contains("\"command\" : \"demo\"");
    } catch (IOException e) {
      throw new InputException(run, "cannot be read");
    }
  }

  private static List<Path> list(Path folder) {
    try (Stream<Path> entries = Files.list(folder)) {
      return entries.sorted().toList();
    } catch (IOException e) {
      throw new InputException("--out " + folder + ": cannot be listed");
    }
  }

  /** Links are removed, not followed. */
  private static void delete(Path entry) {
    try (Stream<Path> files = Files.walk(entry)) {
      for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
        Files.delete(file);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(entry + " cannot be cleared away", e);
    }
  }
}
