package espalier.device;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;

/** What NVIDIA's kernel driver says in {@code /proc} of the GPUs it drives. */
final class NvidiaDriver {

  private static final String MODEL = "Model:";

  private NvidiaDriver() {}

  /**
   * The names of the GPUs in one line.
   *
   * @param proc {@code /proc/driver/nvidia}, which the driver makes when it is loaded
   */
  static String describe(Path proc) {
    if (!Files.isDirectory(proc)) {
      return "none found: no NVIDIA driver is loaded";
    }
    List<String> names = new ArrayList<>();
    try (Stream<Path> gpus = Files.list(proc.resolve("gpus"))) {
      for (Path gpu : gpus.sorted().toList()) {
        names.add(name(gpu.resolve("information")));
      }
    } catch (IOException e) {
      return "an NVIDIA driver is loaded, but does not list its GPUs";
    }
    return names.isEmpty() ? "an NVIDIA driver is loaded, without a GPU" : String.join(", ", names);
  }

  private static String name(Path information) throws IOException {
    return Files.readAllLines(information).stream()
        .filter(line -> line.startsWith(MODEL))
        .map(line -> line.substring(MODEL.length()).strip())
        .findFirst()
        .orElse("a GPU without a name");
  }
}
