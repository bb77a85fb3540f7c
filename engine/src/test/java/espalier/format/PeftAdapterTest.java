package espalier.format;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class PeftAdapterTest {

  private static final String Q = "model.layers.3.self_attn.q_proj";
  private static final String UP = "model.layers.3.mlp.up_proj";

  @TempDir Path folder;

  /** Rank 2, inputs 3, outputs 4; q_proj and up_proj of block 3. */
  @BeforeEach
  void writeAdapter() {
    PeftAdapter.write(
        folder,
        new PeftAdapter.Output(
            2,
            8,
            0.25,
            Set.of("q_proj", "up_proj"),
            Set.of(3),
            "base",
            new TreeMap<>(
                Map.of(
                    Q, new Tensor[] {tensor(2, 3), tensor(4, 2)},
                    UP, new Tensor[] {tensor(2, 3), tensor(4, 2)}))));
  }

  @Test
  void readsWhatItWrites() {
    try (PeftAdapter adapter = PeftAdapter.open(folder)) {
      assertEquals(2, adapter.rank());
      assertEquals(8, adapter.alpha());
      assertEquals(0.25, adapter.dropout());
      assertEquals(List.of(UP, Q), List.copyOf(adapter.layers().keySet()));
      assertEquals(5, adapter.layers().get(Q).a().expect(2, 3).value(5));
      assertEquals(7, adapter.layers().get(UP).b().expect(4, 2).value(7));
    }
  }

  @Test
  void readsWhatPeftWrites() {
    Path golden = Path.of("src/test/resources/golden/adapter");
    try (PeftAdapter adapter = PeftAdapter.open(golden)) {
      assertEquals(4, adapter.rank());
      assertEquals(8, adapter.alpha());
      assertEquals(14, adapter.layers().size());
    }
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "{\"target_modules\": \"all-linear\"}",
        "{\"target_modules\": [\"self_attn.q_proj\", \"model.layers.3.mlp.up_proj\"]}",
        "{\"layers_to_transform\": 3}",
        "{\"layers_to_transform\": null}",
        "{\"layers_pattern\": null}",
        "{\"init_lora_weights\": \"gaussian\"}",
        "{\"modules_to_save\": [], \"an_option_of_tomorrow\": null}"
      })
  void toleratesWhatChangesNothing(String changes) throws IOException {
    change(changes);
    PeftAdapter.open(folder).close();
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
          {"fan_in_fan_out": true}                    | fan_in_fan_out is true
          {"modules_to_save": ["lm_head"]}            | modules_to_save is set
          {"rank_pattern": {"q_proj": 4}}             | rank_pattern is set
          {"alpha_pattern": {"q_proj": 4}}            | alpha_pattern is set
          {"exclude_modules": "q_proj"}               | exclude_modules is set
          {"layer_replication": [[0, 2]]}             | layer_replication is set
          {"init_lora_weights": "pissa"}              | init_lora_weights is pissa, which changes the weights
          {"target_modules": ".*_proj"}               | target_modules is a regular expression
          {"target_modules": [1]}                     | target_modules is not a list of names
          {"target_modules": []}                      | target_modules names no modules
          {"layers_to_transform": ["3"]}              | layers_to_transform is not a list of integers
          {"layers_pattern": "h"}                     | layers_pattern is not layers
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
          {"r": 3}                                         | lora_A.weight has shape [2, 3], but r is 3
          {"target_modules": ["q_proj"]}                   | layer model.layers.3.mlp.up_proj is not among target_modules
          {"target_modules": ["proj"]}                     | is not among target_modules
          {"target_modules": null}                         | layer model.layers.3.mlp.up_proj is not among
          {"target_modules": ["q_proj", "up_proj", "k_proj"]} | holds no layer k_proj
          {"layers_to_transform": [2]}                     | is not among layers_to_transform
          {"layers_to_transform": [3, 4]}                  | holds nothing for block 4
          """)
  void refusesFilesThatContradictTheConfiguration(String changes, String fault) throws IOException {
    change(changes);
    assertRefused(
        folder.resolve("adapter_model.safetensors"), () -> PeftAdapter.open(folder), fault);
  }

  @Test
  void refusesHalvesAndOtherTensors() {
    String a = PeftAdapter.key(Q, 'A');
    String b = PeftAdapter.key(Q, 'B');
    assertWeightsRefused("tensor " + b + " is missing", Map.of(a, tensor(2, 3)));
    assertWeightsRefused("tensor " + a + " is missing", Map.of(b, tensor(4, 2)));
    assertWeightsRefused("[4, 3], but r is 2", Map.of(a, tensor(2, 3), b, tensor(4, 3)));
    assertWeightsRefused(
        "tensor model.norm.weight is no LoRA matrix", Map.of("model.norm.weight", tensor(1, 3)));
    assertWeightsRefused("holds no adapter", Map.of());
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
