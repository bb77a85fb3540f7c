package espalier;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.format.PeftAdapter;
import espalier.format.SaeFile;
import espalier.format.Safetensors;
import espalier.format.TensorEntry;
import espalier.lora.LoraSettings;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.sae.Sae;
import espalier.sae.SaeLoader;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;

/**
 * What PyTorch computed in float64 from small models, read from the test resources. See the README
 * there.
 */
public final class Golden {

  public static final int LAYER = 1;

  private Golden() {}

  public static Path folder(String name) {
    return Path.of("src/test/resources/golden", name);
  }

  public static JsonNode scalars() {
    try {
      return new ObjectMapper().readTree(folder("scalars.json").toFile());
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  public static float[] values(Device device, String file, String name) {
    try (Safetensors tensors = Safetensors.open(folder(file + ".safetensors"))) {
      TensorEntry entry = tensors.tensor(name);
      Tensor copy = Tensor.allocate(device, 1, entry.size());
      entry.copyTo(device, copy);
      return copy.toArray();
    }
  }

  /** Whether a file holds a tensor. */
  public static boolean has(String file, String name) {
    try (Safetensors tensors = Safetensors.open(folder(file + ".safetensors"))) {
      return tensors.tensors().containsKey(name);
    }
  }

  public static LanguageModel model(Device device, String name) {
    try (ModelFolder folder = ModelFolder.open(folder(name))) {
      return LanguageModel.load(device, folder);
    }
  }

  /** With room beside the weights that the adapter updates, where the device gains by it. */
  public static LanguageModel model(Device device, String name, PeftAdapter adapter) {
    Map<String, Integer> ranks = LoraSettings.of(adapter, 0).ranks();
    try (ModelFolder folder = ModelFolder.open(folder(name))) {
      int positions = folder.config().maxPositionEmbeddings();
      return LanguageModel.load(device, folder, positions, ranks);
    }
  }

  public static Sae sae(Device device, String kind) {
    try (SaeFile file = SaeFile.open(folder("sae-" + kind))) {
      return SaeLoader.load(
          device,
          file.weights(),
          warning -> {
            throw new AssertionError(warning);
          });
    }
  }

  public static TokenRows tokens(ModelConfig config) {
    return TokenRows.read(List.of(folder("tokens.npy")), config, folder("llama"), 0);
  }

  /** All three rows as one batch. */
  public static TokenBatch batch(Device device, ModelConfig config) {
    TokenRows rows = tokens(config);
    TokenBatch batch = new TokenBatch(device, rows.count(), rows.context(), config.specialIds());
    int[] row = new int[rows.context()];
    for (int i = 0; i < rows.count(); i++) {
      rows.copyRow(i, row);
      batch.set(i, row);
    }
    return batch;
  }

  /** The largest error must be within {@code tolerance} of the largest expected value. */
  public static void assertClose(String what, float[] expected, float[] actual, double tolerance) {
    assertEquals(expected.length, actual.length, what);
    double scale = 0;
    double error = 0;
    for (int i = 0; i < expected.length; i++) {
      assertTrue(Float.isFinite(actual[i]), what + " [" + i + "] is " + actual[i]);
      scale = Math.max(scale, Math.abs(expected[i]));
      error = Math.max(error, Math.abs((double) expected[i] - actual[i]));
    }
    assertTrue(error <= tolerance * scale, what + ": error " + error + " of " + scale);
  }
}
