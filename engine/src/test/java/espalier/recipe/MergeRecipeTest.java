package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.Golden;
import espalier.device.Device;
import espalier.format.AtomicFiles;
import espalier.format.DType;
import espalier.format.InputException;
import espalier.format.ModelFolder;
import espalier.format.PeftAdapter;
import espalier.format.Safetensors;
import espalier.format.SafetensorsWriter;
import espalier.format.StrictJson;
import espalier.format.TensorEntry;
import espalier.model.LanguageModel;
import espalier.tensor.Tensor;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.DoubleUnaryOperator;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

/** The golden Llama and its adapter of blocks 2 and 3, every linear layer, rank 4, alpha 8. */
class MergeRecipeTest {

  private static final Path ADAPTER = Golden.folder("adapter");

  @TempDir Path temp;
  private final ByteArrayOutputStream err = new ByteArrayOutputStream();

  private ObjectNode merge(Path model, boolean toF32) {
    return merge(model, ADAPTER, toF32);
  }

  private ObjectNode merge(Path model, Path adapter, boolean toF32) {
    return new MergeRecipe(
            new MergeSettings(model, adapter, temp.resolve("out"), toF32),
            Console.to(new PrintStream(err)))
        .run();
  }

  /** Adapted weights are W + 2 B A rounded once, all others are copied bit for bit. */
  @ParameterizedTest
  @EnumSource(names = {"F32", "BF16", "F16"})
  void addsTheUpdateInTheModelsOwnType(DType dtype) throws IOException {
    Path model = sharded(dtype);
    double reported = merge(model, false).get("rounding_loss").doubleValue();
    assertEquals(files(model), files(temp.resolve("out")));
    for (String name : List.of("config.json", "tokenizer.json")) {
      assertArrayEquals(
          Files.readAllBytes(model.resolve(name)),
          Files.readAllBytes(temp.resolve("out").resolve(name)));
    }
    double loss = check(model, dtype);
    assertEquals(loss, reported, 1e-6 + 1e-3 * loss);
    assertEquals(loss > 0.05, err.toString().contains("WARNING: rounding to " + dtype));
  }

  @Test
  void keepsAllOfItInFloat32() throws IOException {
    Path model = sharded(DType.BF16);
    assertTrue(merge(model, true).get("rounding_loss").doubleValue() < 1e-5);
    check(model, DType.F32);
    JsonNode config = new ObjectMapper().readTree(temp.resolve("out/config.json").toFile());
    assertEquals("float32", config.get("dtype").textValue());
    JsonNode index =
        new ObjectMapper().readTree(temp.resolve("out/model.safetensors.index.json").toFile());
    long bytes = 0;
    for (TensorEntry entry : tensors(temp.resolve("out")).values()) {
      bytes += entry.data().byteSize();
    }
    assertEquals(bytes, index.at("/metadata/total_size").longValue());
    assertFalse(err.toString().contains("WARNING"), err.toString());
  }

  /**
   * The golden Llama ties its head; with another in the files it does not, and the result says so.
   */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void saysThatAHeadOfItsOwnIsNotTied(boolean toF32) throws IOException {
    Path model = Files.createDirectory(temp.resolve("model"));
    try (Device device = Device.open()) {
      LanguageModel golden = Golden.model(device, "llama");
      List<Safetensors.Output> tensors = new ArrayList<>(golden.tensors());
      Tensor head = Tensor.allocate(device, golden.head().rows(), golden.head().cols());
      head.copyFrom(new float[(int) head.size()]);
      tensors.add(Safetensors.Output.matrix("lm_head.weight", head));
      ModelFolder.write(model, golden.config(), tensors);
    }
    merge(model, toF32);
    assertTrue(
        err.toString().contains("lm_head.weight differ, so they are taken as not tied"),
        err.toString());
    ObjectNode config = StrictJson.read(model.resolve("config.json")).toObjectNode();
    assertTrue(config.get("tie_word_embeddings").booleanValue());
    assertEquals(
        config.put("tie_word_embeddings", false),
        StrictJson.read(temp.resolve("out/config.json")).toObjectNode());
    check(model, DType.F32);
  }

  @Test
  void refusesWhatTheTypeCannotHold() throws IOException {
    Path model = sharded(DType.F16);
    Path adapter = Files.createDirectory(temp.resolve("adapter"));
    Files.copy(
        ADAPTER.resolve("adapter_model.safetensors"), adapter.resolve("adapter_model.safetensors"));
    String config = Files.readString(ADAPTER.resolve("adapter_config.json"));
    Files.writeString(
        adapter.resolve("adapter_config.json"),
        config.replace("\"lora_alpha\": 8", "\"lora_alpha\": 1e9"));
    InputException e = assertThrows(InputException.class, () -> merge(model, adapter, false));
    assertTrue(e.getMessage().contains("Infinity as F16"), e.getMessage());
    assertEquals(List.of("adapter", "model"), files(temp));
  }

  @Test
  void leavesAFolderThatHoldsSomething() throws IOException {
    Files.createDirectory(temp.resolve("out"));
    Files.writeString(temp.resolve("out/letter.txt"), "keep me");
    InputException e =
        assertThrows(InputException.class, () -> merge(Golden.folder("llama"), false));
    assertTrue(e.getMessage().startsWith("--out "), e.getMessage());
    assertEquals(List.of("letter.txt"), files(temp.resolve("out")));
  }

  /**
   * Compares with sums in double precision.
   *
   * @return norm of what rounding changed over the norm of the update
   */
  private double check(Path model, DType dtype) {
    Map<String, TensorEntry> before = tensors(model);
    Map<String, TensorEntry> after = tensors(temp.resolve("out"));
    assertEquals(before.keySet(), after.keySet());
    double loss = 0;
    double update = 0;
    try (PeftAdapter adapter = PeftAdapter.open(ADAPTER)) {
      assertEquals(14, adapter.layers().size());
      for (String name : before.keySet()) {
        TensorEntry w = before.get(name);
        TensorEntry sum = after.get(name);
        assertEquals(dtype, sum.dtype(), name);
        PeftAdapter.Layer layer = adapter.layers().get(name.replace(".weight", ""));
        for (long i = 0; i < w.size(); i++) {
          long cols = w.shape()[w.shape().length - 1];
          long row = i / cols;
          long col = i % cols;
          double delta = layer == null ? 0 : delta(layer, row, col, v -> v);
          double exact = w.value(i) + delta;
          double allowed = 0;
          if (layer != null) { // one rounding, and before it float32's of a sum of rank + 1 terms
            double terms = Math.abs(w.value(i)) + delta(layer, row, col, Math::abs);
            allowed = Math.abs(exact) / unit(dtype) + (layer.rank() + 3) * terms / unit(DType.F32);
            allowed = Math.max(allowed, dtype == DType.F16 ? Math.scalb(1, -25) : 0); // subnormal
          }
          assertEquals(exact, sum.value(i), allowed, name);
          loss += Math.pow(sum.value(i) - exact, 2);
          update += delta * delta;
        }
      }
    }
    return Math.sqrt(loss / update);
  }

  /** One over the largest relative error of a rounding. */
  private static double unit(DType dtype) {
    return Math.scalb(1.0, dtype == DType.F32 ? 24 : dtype == DType.F16 ? 11 : 8);
  }

  private static double delta(
      PeftAdapter.Layer layer, long row, long col, DoubleUnaryOperator term) {
    double sum = 0;
    for (int r = 0; r < layer.rank(); r++) {
      double a = layer.a().value(r * layer.a().shape()[1] + col);
      sum += term.applyAsDouble(layer.b().value(row * layer.rank() + r) * a);
    }
    return layer.alpha() / layer.rank() * sum;
  }

  /** The model in two shards with an index, of another type. */
  private Path sharded(DType dtype) throws IOException {
    Path model = Files.createDirectory(temp.resolve("model"));
    ObjectNode index = JsonNodeFactory.instance.objectNode();
    index.putObject("metadata").put("total_size", 1);
    ObjectNode map = index.putObject("weight_map");
    List<List<SafetensorsWriter.Part>> shards = List.of(new ArrayList<>(), new ArrayList<>());
    try (Arena arena = Arena.ofShared()) {
      for (TensorEntry entry : tensors(Golden.folder("llama")).values()) {
        MemorySegment data = arena.allocate(entry.size() * dtype.bytes());
        for (long i = 0; i < entry.size(); i++) {
          dtype.store(data, i, (float) entry.value(i));
        }
        int shard = map.size() % 2;
        map.put(entry.name(), "model-" + shard + ".safetensors");
        shards
            .get(shard)
            .add(
                new SafetensorsWriter.Part(
                    entry.name(),
                    dtype,
                    entry.shape(),
                    channel -> AtomicFiles.writeFully(channel, data)));
      }
      for (int shard = 0; shard < 2; shard++) {
        SafetensorsWriter.write(
            model.resolve("model-" + shard + ".safetensors"),
            shards.get(shard),
            Map.of("format", "pt"));
      }
    }
    AtomicFiles.write(model.resolve("model.safetensors.index.json"), index);
    Files.copy(Golden.folder("llama").resolve("config.json"), model.resolve("config.json"));
    Files.writeString(model.resolve("tokenizer.json"), "{\"not\": \"read\"}");
    return model;
  }

  /** Of all files of a folder; they stay mapped. */
  private static Map<String, TensorEntry> tensors(Path folder) {
    Map<String, TensorEntry> tensors = new TreeMap<>();
    for (String name : files(folder)) {
      if (name.endsWith(".safetensors")) {
        tensors.putAll(Safetensors.open(folder.resolve(name)).tensors());
      }
    }
    return tensors;
  }

  private static List<String> files(Path folder) {
    try (Stream<Path> files = Files.list(folder)) {
      return files.map(file -> file.getFileName().toString()).sorted().toList();
    } catch (IOException e) {
      throw new AssertionError(e);
    }
  }
}
