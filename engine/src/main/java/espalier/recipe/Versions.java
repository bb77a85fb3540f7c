package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Stream;

/** What made a run: versions, revision and machine, for {@code run.json}. */
public final class Versions {

  private Versions() {}

  public static ObjectNode json() {
    String version = Versions.class.getPackage().getImplementationVersion();
    ObjectNode versions =
        JsonNodeFactory.instance
            .objectNode()
            .put("espalier", version == null ? "development" : version)
            .put("java", Runtime.version().toString());
    Device.libraries().forEach(versions::put);
    return versions;
  }

  /** The revision, which the launcher passes on; {@code unknown} where there is no repository. */
  public static String revision() {
    return System.getProperty("espalier.revision", "unknown");
  }

  public static ObjectNode machine() {
    return JsonNodeFactory.instance
        .objectNode()
        .put("os", System.getProperty("os.name") + " " + System.getProperty("os.version"))
        .put("arch", System.getProperty("os.arch"))
        .put("processor", processor(Path.of("/proc/cpuinfo")))
        .put("processors", Runtime.getRuntime().availableProcessors());
  }

  /** The processor's name. Kernels are compiled for it, and another may round differently. */
  private static String processor(Path cpuinfo) {
    try (Stream<String> lines = Files.lines(cpuinfo)) {
      return lines
          .filter(line -> line.startsWith("model name"))
          .map(line -> line.substring(line.indexOf(':') + 1).strip())
          .findFirst()
          .orElse("unknown");
    } catch (IOException noSuchFile) {
      return "unknown";
    }
  }
}
