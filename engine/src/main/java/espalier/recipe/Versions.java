package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;

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

  /** The launcher passes it on; unknown where there is no repository. */
  public static String revision() {
    return System.getProperty("espalier.revision", "unknown");
  }

  public static ObjectNode machine() {
    return JsonNodeFactory.instance
        .objectNode()
        .put("os", System.getProperty("os.name") + " " + System.getProperty("os.version"))
        .put("arch", System.getProperty("os.arch"))
        .put("processors", Runtime.getRuntime().availableProcessors());
  }
}
