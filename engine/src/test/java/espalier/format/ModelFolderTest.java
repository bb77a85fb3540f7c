package espalier.format;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ModelFolderTest {

  private static final String INDEX = "model.safetensors.index.json";

  @TempDir Path folder;

  @BeforeEach
  void writeConfig() {
    config(false);
  }

  @Test
  void readsWhatItWrites() {
    ModelConfig config = config(true);
    ModelFolder.write(
        folder,
        config,
        List.of(
            vector("model.norm.weight", 1, 2, 3, 4),
            Safetensors.Output.matrix("model.layers.0.mlp.gate_proj.weight", row(5, 6, 7, 8))));
    try (ModelFolder model = ModelFolder.open(folder)) {
      assertEquals(config.toJson(), model.config().toJson());
      assertEquals(3, model.tensor("model.norm.weight", 4).value(2));
      assertEquals(8, model.tensor("model.layers.0.mlp.gate_proj.weight", 1, 4).value(3));
    }
  }

  @Test
  void readsShards() throws IOException {
    shards("a", "b");
    index("\"a\": \"one.safetensors\", \"b\": \"two.safetensors\"");
    try (ModelFolder model = ModelFolder.open(folder)) {
      assertEquals(1, model.tensor("a", 1).value(0));
      assertEquals(2, model.tensor("b", 1).value(0));
    }
  }

  @Test
  void namesWhatIsMissingOrOfAnotherShape() throws IOException {
    Path file = single(vector("a", 1));
    try (ModelFolder model = ModelFolder.open(folder)) {
      assertRefused(file, () -> model.tensor("b", 1), "tensor b is missing");
      assertRefused(file, () -> model.tensor("a", 2), "tensor a has shape [1], expected [2]");
    }
  }

  @Test
  void refusesWeightsThatNobodyTakes() throws IOException {
    Path file = single(vector("a", 1), vector("model.layers.0.self_attn.q_norm.weight", 1));
    try (ModelFolder model = ModelFolder.open(folder)) {
      model.tensor("a", 1);
      assertRefused(file, model::requireAllTaken, "q_norm.weight has no place");
    }
  }

  @Test
  void toleratesWhatDoesNoHarm() throws IOException {
    config(true);
    single(vector("model.layers.0.self_attn.rotary_emb.inv_freq", 1), vector("lm_head.weight", 1));
    try (ModelFolder model = ModelFolder.open(folder)) {
      model.requireAllTaken();
    }
    config(false);
    try (ModelFolder model = ModelFolder.open(folder)) {
      assertRefused(folder.resolve("model.safetensors"), model::requireAllTaken, "lm_head.weight");
    }
  }

  @Test
  void refusesFoldersWithoutAModel() throws IOException {
    Path missing = folder.resolve("missing");
    assertRefused(missing, () -> ModelFolder.open(missing), "no such folder");
    assertRefused(
        folder.resolve("model.safetensors"), () -> ModelFolder.open(folder), "no such file");
    Files.delete(folder.resolve("config.json"));
    assertRefused(folder.resolve("config.json"), () -> ModelFolder.open(folder), "no such file");
  }

  @Test
  void refusesAnIndexThatContradictsItsShards() throws IOException {
    shards("a", "b");
    index("\"a\": \"one.safetensors\"");
    // The second shard is not named: its tensors do not belong to the model.
    ModelFolder.open(folder).close();
    index("\"a\": \"two.safetensors\", \"b\": \"one.safetensors\"");
    assertIndexRefused("tensor a is not in two.safetensors");
    index("\"a\": \"one.safetensors\", \"c\": \"two.safetensors\"");
    assertIndexRefused("tensor c is not in two.safetensors");
    Safetensors.write(
        folder.resolve("one.safetensors"), List.of(vector("a", 1), vector("x", 1)), Map.of());
    index("\"a\": \"one.safetensors\", \"b\": \"two.safetensors\"");
    assertIndexRefused("tensor x of one.safetensors is not listed");
    shards("a", "a");
    assertRefused(
        folder.resolve("two.safetensors"), () -> ModelFolder.open(folder), "tensor a is in one");
    index("\"a\": \"three.safetensors\"");
    assertRefused(
        folder.resolve("three.safetensors"), () -> ModelFolder.open(folder), "no such file");
    index("\"a\": \"one.safetensors\", \"a\": \"two.safetensors\"");
    assertIndexRefused("key a appears twice");
    index("\"a\": 1");
    assertIndexRefused("weight_map.a is not a string");
    Files.writeString(folder.resolve(INDEX), "{}");
    assertIndexRefused("weight_map is missing");
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "../one.safetensors",
        "/etc/one.safetensors",
        "..",
        ".",
        "",
        "/",
        "a/b.safetensors"
      })
  void refusesShardsOutsideTheFolder(String shard) throws IOException {
    shards("a", "b");
    index("\"a\": \"%s\"".formatted(shard));
    assertIndexRefused("tensor a is in \"" + shard + "\", which is no file of this folder");
  }

  @Test
  void refusesTwoKindsOfWeights() throws IOException {
    single(vector("a", 1));
    shards("a", "b");
    index("\"a\": \"one.safetensors\", \"b\": \"two.safetensors\"");
    assertIndexRefused("there is also a model.safetensors");
  }

  private void assertIndexRefused(String fault) {
    assertRefused(folder.resolve(INDEX), () -> ModelFolder.open(folder), fault);
  }

  private ModelConfig config(boolean tied) {
    ObjectNode json =
        JsonNodeFactory.instance
            .objectNode()
            .put("model_type", "llama")
            .put("hidden_size", 4)
            .put("num_hidden_layers", 1)
            .put("num_attention_heads", 2)
            .put("intermediate_size", 3)
            .put("vocab_size", 10)
            .put("max_position_embeddings", 16)
            .put("tie_word_embeddings", tied);
    Path file = folder.resolve("config.json");
    AtomicFiles.write(file, json);
    return ModelConfig.of(file, json);
  }

  private void index(String map) throws IOException {
    Files.writeString(folder.resolve(INDEX), "{\"weight_map\": {" + map + "}}");
  }

  private void shards(String first, String second) {
    Safetensors.write(folder.resolve("one.safetensors"), List.of(vector(first, 1)), Map.of());
    Safetensors.write(folder.resolve("two.safetensors"), List.of(vector(second, 2)), Map.of());
  }

  private Path single(Safetensors.Output... tensors) {
    Path file = folder.resolve("model.safetensors");
    Safetensors.write(file, Arrays.asList(tensors), Map.of("format", "pt"));
    return file;
  }

  private static Safetensors.Output vector(String name, float... values) {
    return Safetensors.Output.vector(name, row(values));
  }

  private static Tensor row(float... values) {
    Tensor tensor =
        Tensor.of(Arena.ofAuto().allocate(ValueLayout.JAVA_FLOAT, values.length), 1, values.length);
    tensor.copyFrom(values);
    return tensor;
  }
}
