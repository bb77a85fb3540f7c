package espalier.recipe;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.InputException;
import espalier.format.ModelConfig;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;

/** Models whose shapes are measured, as resources in the form of config.json. */
public final class BenchShape {

  public static final List<String> NAMES =
      List.of("gemma-2-2b", "llama-3.2-1b", "gemma-like", "tiny");

  private BenchShape() {}

  /**
   * @param name one of {@link #NAMES}, or the path of a config.json
   */
  public static ModelConfig of(String name) {
    Path file = Path.of(name);
    if (!NAMES.contains(name)) {
      if (!Files.isRegularFile(file)) {
        throw new InputException(
            "--shape %s: is neither a file nor one of %s"
                .formatted(name, String.join(", ", NAMES)));
      }
      return ModelConfig.read(file, warning -> {});
    }
    String resource = "/espalier/shapes/" + name + ".json";
    try (InputStream in = BenchShape.class.getResourceAsStream(resource)) {
      return ModelConfig.of(file, (ObjectNode) new ObjectMapper().readTree(in));
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
