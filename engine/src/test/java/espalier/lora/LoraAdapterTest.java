package espalier.lora;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.Golden;
import espalier.device.Device;
import espalier.format.PeftAdapter;
import espalier.format.PeftWriter;
import espalier.format.Safetensors;
import espalier.format.TensorEntry;
import espalier.model.LanguageModel;
import espalier.tensor.Tensor;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.Collection;
import java.util.Map;
import java.util.Random;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Adapters whose layers differ in rank and scale, on models of several families. */
class LoraAdapterTest {

  @TempDir Path temp;
  private Device device;

  @BeforeEach
  void open() {
    device = Device.open();
  }

  @AfterEach
  void close() {
    device.close();
  }

  /** Every linear layer but the first, of ranks 1, 2, 3 and alphas 2, 4, 6, 8 in turn. */
  @ParameterizedTest
  @ValueSource(strings = {"llama", "gemma2", "gpt2", "gpt_neox"})
  void savesWhatItLoaded(String family) {
    LanguageModel model = Golden.model(device, "../families/" + family + "/model");
    Path first = temp.resolve("first");
    write(model, first, true);
    try (PeftAdapter file = PeftAdapter.open(first)) {
      LoraAdapter lora = LoraAdapter.load(device, model, file, 0);
      file.layers()
          .forEach(
              (path, layer) -> {
                assertEquals(layer.rank(), lora.settings().layers().get(path).rank());
                assertEquals(
                    (float) (layer.alpha() / Math.sqrt(layer.rank())),
                    lora.adapters().byPath().get(path).scale());
              });
      lora.save(temp.resolve("second"), "model");
    }
    Map<String, float[]> before = tensors(first);
    Map<String, float[]> after = tensors(temp.resolve("second"));
    assertEquals(before.keySet(), after.keySet());
    before.forEach((name, values) -> assertArrayEquals(values, after.get(name), name));
    try (PeftAdapter a = PeftAdapter.open(first);
        PeftAdapter b = PeftAdapter.open(temp.resolve("second"))) {
      assertEquals(a.rankStabilised(), b.rankStabilised());
      a.layers()
          .forEach(
              (path, layer) -> assertEquals(layer.alpha(), b.layers().get(path).alpha(), path));
    }
  }

  @Test
  void refusesMatricesOfAnotherShape() {
    LanguageModel model = Golden.model(device, "llama");
    Path folder = temp.resolve("adapter");
    write(model, folder, false);
    try (PeftAdapter file = PeftAdapter.open(folder)) {
      assertRefused(
          file.file(), () -> LoraAdapter.load(device, model, file, 0), "lora_A.weight has shape");
    }
  }

  private void write(LanguageModel model, Path folder, boolean fits) {
    Random random = new Random(1);
    SortedMap<String, PeftWriter.Layer> layers = new TreeMap<>();
    SortedMap<String, Long> inputs = new TreeMap<>();
    SortedMap<String, Long> outputs = new TreeMap<>();
    IntStream.range(0, model.layers())
        .boxed()
        .flatMap(model::linearLayers)
        .forEach(
            group ->
                group
                    .projections()
                    .forEach(
                        p -> {
                          inputs.put(p.path(), group.inputs());
                          outputs.put(p.path(), p.outputs());
                        }));
    int i = 0;
    for (String path : inputs.keySet()) {
      int rank = 1 + i % 3;
      if (i > 0) {
        layers.put(
            path,
            new PeftWriter.Layer(
                rank,
                2 + 2 * (i % 4),
                matrix(random, rank, inputs.get(path) + (fits ? 0 : 1)),
                matrix(random, outputs.get(path), rank)));
      }
      i++;
    }
    Collection<String> linear = inputs.keySet();
    PeftWriter.write(folder, new PeftWriter.Adapter(layers, linear, 0, true, false, "model"));
  }

  private Tensor matrix(Random random, long rows, long cols) {
    Tensor matrix = Tensor.allocate(device, rows, cols);
    for (long i = 0; i < rows * cols; i++) {
      matrix.data().setAtIndex(ValueLayout.JAVA_FLOAT, i, random.nextFloat());
    }
    return matrix;
  }

  private static Map<String, float[]> tensors(Path folder) {
    Map<String, float[]> values = new TreeMap<>();
    try (Safetensors file = Safetensors.open(folder.resolve("adapter_model.safetensors"))) {
      for (TensorEntry entry : file.tensors().values()) {
        float[] elements = new float[(int) entry.size()];
        for (int i = 0; i < elements.length; i++) {
          elements[i] = (float) entry.value(i);
        }
        values.put(entry.name(), elements);
      }
    }
    return values;
  }
}
