package espalier.format;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class PeftAdapterTest {

  private static final String Q = "model.layers.3.self_attn.q_proj";
  private static final String UP = "model.layers.3.mlp.up_proj";

  /** A model of four blocks with three linear layers each. */
  private static final List<String> LINEAR =
      IntStream.range(0, 4)
          .mapToObj(block -> "model.layers." + block + ".")
          .flatMap(
              block ->
                  Stream.of("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj").map(block::concat))
          .toList();

  private static final List<String> OTHERS = List.of("model.embed_tokens", "lm_head");

  @TempDir Path folder;

  /** Rank 2, inputs 3, outputs 4; q_proj and up_proj of block 3. */
  @BeforeEach
  void writeAdapter() {
    write(new PeftWriter.Layer(2, 8, tensor(2, 3), tensor(4, 2)), List.of(Q, UP));
  }

  private void write(PeftWriter.Layer layer, List<String> paths) {
    SortedMap<String, PeftWriter.Layer> layers = new TreeMap<>();
    paths.forEach(path -> layers.put(path, layer));
    write(layers);
  }

  private void write(SortedMap<String, PeftWriter.Layer> layers) {
    PeftWriter.write(folder, new PeftWriter.Adapter(layers, LINEAR, 0.25, false, false, "base"));
  }

  @Test
  void readsWhatItWrites() {
    try (PeftAdapter adapter = PeftAdapter.open(folder)) {
      assertEquals(0.25, adapter.dropout());
      assertEquals(List.of(UP, Q), List.copyOf(adapter.layers().keySet()));
      assertEquals(2, adapter.layers().get(Q).rank());
      assertEquals(8, adapter.layers().get(Q).alpha());
      assertEquals(5, adapter.layers().get(Q).a().expect(2, 3).value(5));
      assertEquals(7, adapter.layers().get(UP).b().expect(4, 2).value(7));
      adapter.requireFits(LINEAR, OTHERS);
    }
  }

  @Test
  void readsWhatPeftWrites() {
    Path golden = Path.of("src/test/resources/golden/adapter");
    try (PeftAdapter adapter = PeftAdapter.open(golden)) {
      assertEquals(14, adapter.layers().size());
      for (PeftAdapter.Layer layer : adapter.layers().values()) {
        assertEquals(4, layer.rank());
        assertEquals(8, layer.alpha());
      }
    }
  }

  /** Whatever is adapted, the configuration chooses it and no more, with its own rank and alpha. */
  @ParameterizedTest
  @ValueSource(
      strings = {
        "model.layers.3.mlp.up_proj=2/8",
        "model.layers.3.mlp.up_proj=2/8 model.layers.2.mlp.down_proj=2/8",
        "model.layers.1.mlp.up_proj=2/8 model.layers.3.mlp.up_proj=3/8 model.layers.3.mlp.down_proj=2/8",
        "model.layers.0.mlp.up_proj=2/8 model.layers.3.mlp.up_proj=2/8 model.layers.0.mlp.down_proj=5/7"
            + " model.layers.3.mlp.down_proj=5/7.5",
        "model.layers.0.self_attn.q_proj=1/1 model.layers.3.self_attn.q_proj=4/2"
      })
  void writesEachLayersRankAndAlpha(String adapted) {
    SortedMap<String, PeftWriter.Layer> layers = new TreeMap<>();
    for (String layer : adapted.split(" ")) {
      String[] parts = layer.split("[=/]");
      int rank = Integer.parseInt(parts[1]);
      layers.put(
          parts[0],
          new PeftWriter.Layer(
              rank, Double.parseDouble(parts[2]), tensor(rank, 3), tensor(4, rank)));
    }
    write(layers);
    try (PeftAdapter adapter = PeftAdapter.open(folder)) {
      adapter.requireFits(LINEAR, OTHERS);
      assertEquals(layers.keySet(), adapter.layers().keySet());
      layers.forEach(
          (path, layer) -> {
            assertEquals(layer.rank(), adapter.layers().get(path).rank(), path);
            assertEquals(layer.alpha(), adapter.layers().get(path).alpha(), path);
          });
    }
  }

  @Test
  void namesLayersOfOneNameByTheirPathWithinTheBlock() throws IOException {
    List<String> linear =
        List.of("h.0.attn.c_proj", "h.0.mlp.c_proj", "h.1.attn.c_proj", "h.1.mlp.c_proj");
    PeftWriter.Layer layer = new PeftWriter.Layer(2, 8, tensor(2, 3), tensor(4, 2));
    PeftWriter.write(
        folder,
        new PeftWriter.Adapter(
            new TreeMap<>(Map.of("h.0.attn.c_proj", layer, "h.1.attn.c_proj", layer)),
            linear,
            0,
            true,
            true,
            "gpt2"));
    JsonNode config = new ObjectMapper().readTree(folder.resolve("adapter_config.json").toFile());
    assertEquals("[\"attn.c_proj\"]", config.get("target_modules").toString());
    assertEquals("[0,1]", config.get("layers_to_transform").toString());
    assertEquals("h", config.get("layers_pattern").textValue());
    assertTrue(config.get("fan_in_fan_out").booleanValue());
    assertTrue(config.get("use_rslora").booleanValue());
    try (PeftAdapter adapter = PeftAdapter.open(folder)) {
      adapter.requireFits(linear, List.of());
      assertTrue(adapter.rankStabilised());
    }
  }

  /** Ways to choose what the folder holds: q_proj and up_proj of block 3 of four. */
  @ParameterizedTest
  @ValueSource(
      strings = {
        "{\"target_modules\": [\"self_attn.q_proj\", \"model.layers.3.mlp.up_proj\"]}",
        "{\"target_modules\": [\"q_proj\", \"up_proj\", \"of_another_family\"]}",
        "{\"layers_to_transform\": 3}",
        "{\"layers_to_transform\": [3, 77]}",
        "{\"layers_pattern\": null}",
        "{\"target_modules\": [\"model.layers.3.self_attn.q_proj\", \"model.layers.3.mlp.up_proj\"],"
            + " \"layers_to_transform\": [2]}",
        "{\"layers_pattern\": [\"blocks\", \"layers\"]}",
        "{\"target_modules\": [\"q_proj\", \"up_proj\", \"down_proj\"], \"exclude_modules\": [\"down_proj\"]}",
        "{\"target_modules\": [\"q_proj\", \"up_proj\", \"down_proj\"], \"exclude_modules\": \".*down.*\"}",
        "{\"target_modules\": \"model\\\\.layers\\\\.3\\\\.(mlp\\\\.up|self_attn.[a-q])_proj\","
            + " \"layers_to_transform\": null, \"layers_pattern\": null}",
        "{\"target_modules\": \"ALL-LINEAR\", \"exclude_modules\": \".*[012]\\\\..*|.*down_proj\","
            + " \"layers_to_transform\": null, \"layers_pattern\": null}",
        "{\"r\": 16, \"rank_pattern\": {\"up_proj\": 2, \"layers.3.self_attn.[a-z]_proj\": 2}}",
        "{\"fan_in_fan_out\": true}",
        "{\"init_lora_weights\": \"gaussian\"}",
        "{\"modules_to_save\": [], \"an_option_of_tomorrow\": null}"
      })
  void chooses(String changes) throws IOException {
    change(changes);
    try (PeftAdapter adapter = PeftAdapter.open(folder)) {
      adapter.requireFits(LINEAR, OTHERS);
    }
  }

  /** As PEFT does, which also warns. */
  @Test
  void warnsOfPatternsThatFitNoLayer() throws IOException {
    change(
        "{\"rank_pattern\": {\"k_proj\": 4}, \"alpha_pattern\": {\"up_proj\": 5, \"layers.7\": 6}}");
    List<String> warnings = new ArrayList<>();
    try (PeftAdapter adapter = PeftAdapter.open(folder, warnings::add)) {
      adapter.requireFits(LINEAR, OTHERS);
      assertEquals(2, adapter.layers().get(Q).rank());
      assertEquals(5, adapter.layers().get(UP).alpha());
    }
    String file = folder.resolve("adapter_config.json") + ": ";
    assertEquals(
        List.of(
            file + "rank_pattern.k_proj fits no layer that the adapter changes",
            file + "alpha_pattern.layers.7 fits no layer that the adapter changes"),
        warnings);
  }

  @Test
  void theFirstPatternThatFitsCounts() throws IOException {
    change("{\"alpha_pattern\": {\"layers.3.mlp.up_proj\": 3, \".*proj\": 5.5, \"up_proj\": 7}}");
    try (PeftAdapter adapter = PeftAdapter.open(folder)) {
      assertEquals(3, adapter.layers().get(UP).alpha());
      assertEquals(5.5, adapter.layers().get(Q).alpha());
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      textBlock =
          """
          {"peft_type": "IA3"}                        | peft_type is IA3, only LORA is supported
          {"peft_type": null}                         | peft_type is missing
          {"r": 0}                                    | r is 0, not a positive size
          {"r": "16"}                                 | r is not an integer
          {"lora_dropout": 1.0}                       | lora_dropout is 1.0, not in [0, 1)
          {"lora_dropout": -0.1}                      | lora_dropout is -0.1
          {"lora_alpha": "x"}                         | lora_alpha is not a number
          {"bias": "all"}                             | bias is all, only none is supported
          {"use_dora": true}                          | use_dora is true
          {"lora_bias": true}                         | lora_bias is true
          {"modules_to_save": ["lm_head"]}            | modules_to_save is set
          {"use_qalora": true}                        | use_qalora is true
          {"use_whatever_comes": true}                | use_whatever_comes is true
          {"use_bdlora": {"nblocks": 2}}              | use_bdlora is set
          {"trainable_token_indices": [1]}            | trainable_token_indices is set
          {"rank_pattern": {"q_proj": 0}}             | rank_pattern.q_proj is 0, not a positive size
          {"rank_pattern": [4]}                       | rank_pattern is not an object
          {"alpha_pattern": {"q_proj": "4"}}          | alpha_pattern.q_proj is not a number
          {"alpha_pattern": {"q_(": 4}}               | alpha_pattern.q_( is the regular expression q_(
          {"target_modules": "(?P=x)", "layers_to_transform": null} | target_modules is the regular expression (?P=x): (?P is not supported
          {"target_modules": ".*", "layers_to_transform": [3]} | layers_to_transform is set, which PEFT allows only beside a list
          `{"layers_pattern": "h|layers"}`            | `layers_pattern is "h|layers", not the name of a module`
          {"layer_replication": [[0, 2]]}             | layer_replication is set
          {"init_lora_weights": "pissa"}              | init_lora_weights is pissa, which changes the weights
          {"target_modules": [1]}                     | target_modules is not a list of names
          {"target_modules": []}                      | target_modules names no modules
          {"layers_to_transform": ["3"]}              | layers_to_transform is not a list of integers
          """)
  void refusesConfigurations(String changes, String fault) throws IOException {
    change(changes);
    assertRefused(folder.resolve("adapter_config.json"), () -> PeftAdapter.open(folder), fault);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      textBlock =
          """
          {"r": 3}                                 | lora_A.weight has shape [2, 3], but its rank is 3
          {"rank_pattern": {"q_proj": 4}}          | self_attn.q_proj.lora_A.weight has shape [2, 3], but its rank is 4
          {"target_modules": ["q_proj"]}           | up_proj.lora_A.weight is for a layer that adapter_config.json does not choose
          {"target_modules": ["proj"]}             | is for a layer that adapter_config.json does not choose
          {"target_modules": null}                 | up_proj.lora_A.weight is for a layer that adapter_config.json does not choose
          {"exclude_modules": ["q_proj"]}          | q_proj.lora_A.weight is for a layer that adapter_config.json does not choose
          {"layers_to_transform": [2]}             | is for a layer that adapter_config.json does not choose
          {"layers_pattern": "h"}                  | is for a layer that adapter_config.json does not choose
          {"layers_to_transform": [2, 3]}          | tensor base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight is missing
          {"layers_to_transform": null}            | tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight is missing
          {"target_modules": ["q_proj", "up_proj", "down_proj"]} | tensor base_model.model.model.layers.3.mlp.down_proj.lora_A.weight is missing
          {"target_modules": "all-linear", "layers_to_transform": null} | q_proj.lora_A.weight is missing
          {"target_modules": ["q_proj", "up_proj", "lm_head"], "layers_to_transform": [], "exclude_modules": ".*[012]\\\\..*"} | chooses lm_head
          """)
  void refusesFilesThatContradictTheConfiguration(String changes, String fault) throws IOException {
    change(changes);
    assertRefused(
        folder.resolve("adapter_model.safetensors"),
        () -> {
          try (PeftAdapter adapter = PeftAdapter.open(folder)) {
            adapter.requireFits(LINEAR, OTHERS);
          }
        },
        fault);
  }

  @Test
  void refusesPickles() throws IOException {
    Path pickle = folder.resolve("adapter_model.bin");
    Files.move(folder.resolve("adapter_model.safetensors"), pickle);
    assertRefused(pickle, () -> PeftAdapter.open(folder), "is a pickle");
  }

  @Test
  void refusesLayersThatTheModelHasNot() {
    try (PeftAdapter adapter = PeftAdapter.open(folder)) {
      assertRefused(
          adapter.file(),
          () -> adapter.requireFits(LINEAR.subList(0, 10), OTHERS),
          "tensor base_model.model.model.layers.3.mlp.up_proj.lora_A.weight",
          "no linear layer");
    }
  }

  @Test
  void refusesHalvesAndOtherTensors() {
    String a = PeftAdapter.key(Q, 'A');
    String b = PeftAdapter.key(Q, 'B');
    assertWeightsRefused("tensor " + b + " is missing", Map.of(a, tensor(2, 3)));
    assertWeightsRefused("tensor " + a + " is missing", Map.of(b, tensor(4, 2)));
    assertWeightsRefused("[4, 3], but its rank is 2", Map.of(a, tensor(2, 3), b, tensor(4, 3)));
    assertWeightsRefused(
        "tensor model.norm.weight is no LoRA matrix", Map.of("model.norm.weight", tensor(1, 3)));
    assertWeightsRefused("holds no adapter", Map.of());
    for (String other :
        List.of(
            "base_model.model.model.embed_tokens.lora_embedding_A",
            "base_model.model.lm_head.modules_to_save.weight",
            PeftAdapter.key(Q, 'B').replace("weight", "bias"),
            PeftAdapter.key(Q, 'A').replace("lora_A", "lora_magnitude_vector"),
            PeftAdapter.key(Q, 'A').replace("lora_A", "lora_A.default"))) {
      assertWeightsRefused(
          "tensor " + other + " is no LoRA matrix",
          Map.of(a, tensor(2, 3), b, tensor(4, 2), other, tensor(1, 3)));
    }
  }

  private void assertWeightsRefused(String fault, Map<String, Tensor> tensors) {
    Path file = folder.resolve("adapter_model.safetensors");
    Safetensors.write(
        file,
        tensors.entrySet().stream()
            .map(e -> Safetensors.Output.matrix(e.getKey(), e.getValue()))
            .toList(),
        Map.of());
    assertRefused(file, () -> PeftAdapter.open(folder), fault);
  }

  private void change(String changes) throws IOException {
    Path config = folder.resolve("adapter_config.json");
    ObjectMapper mapper = new ObjectMapper();
    ObjectNode json = (ObjectNode) mapper.readTree(config.toFile());
    json.setAll((ObjectNode) mapper.readTree(changes));
    Files.writeString(config, json.toString());
  }

  /** 0, 1, 2, ... */
  private static Tensor tensor(long rows, long cols) {
    Tensor tensor =
        Tensor.of(Arena.ofAuto().allocate(ValueLayout.JAVA_FLOAT, rows * cols), rows, cols);
    for (long i = 0; i < rows * cols; i++) {
      tensor.set(i / cols, i % cols, i);
    }
    return tensor;
  }
}
