package espalier.format;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.lang.reflect.Method;
import java.lang.reflect.RecordComponent;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class ModelConfigTest {

  private static final String SMALL =
      """
      {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 12,
       "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 3,
       "intermediate_size": 20, "vocab_size": 100, "rms_norm_eps": 1e-5,
       "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}
      """;

  @TempDir Path folder;

  private final List<String> warnings = new ArrayList<>();

  @Test
  void readsWhatTransformers4Wrote() throws IOException {
    ModelConfig config =
        read(
            """
            {"rope_theta": 500000.0, "tie_word_embeddings": true, "eos_token_id": [2, 7],
             "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 32}}
            """);
    assertEquals(ModelFamily.LLAMA, config.family());
    assertEquals(12, config.hiddenSize());
    assertEquals(2, config.numLayers());
    assertEquals(6, config.numHeads());
    assertEquals(3, config.numKvHeads());
    assertEquals(2, config.headDim());
    assertEquals(20, config.intermediateSize());
    assertEquals(100, config.vocabSize());
    assertEquals(1e-5, config.normEps());
    assertEquals(64, config.maxPositionEmbeddings());
    assertTrue(config.tieWordEmbeddings());
    assertEquals(OptionalInt.of(1), config.bos());
    assertEquals(List.of(2, 7), config.eos());
    assertEquals(
        new RopeConfig(500000, new RopeConfig.Llama3(8, 1, 4, 32)), config.layers().get(1).rope());
    assertEquals(0, config.layers().get(1).window());
    assertEquals(1 / Math.sqrt(2), config.attentionScale());
    assertEquals(Set.of(1, 2, 7), config.specialIds());
  }

  @Test
  void readsWhatTransformers5Writes() throws IOException {
    ModelConfig config =
        read(
            """
            {"head_dim": 8, "rope_parameters":
               {"rope_type": "linear", "factor": 2.0, "rope_theta": 250000.0}}
            """);
    assertEquals(8, config.headDim());
    assertEquals(
        new RopeConfig(250000, new RopeConfig.Linear(2)), config.layers().getFirst().rope());
  }

  /** As users add it to a configuration that transformers 5 wrote; transformers reads it so. */
  @Test
  void takesRopeScalingBeforeRopeParameters() throws IOException {
    String parameters = "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 5e5}";
    ModelConfig both =
        read("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}, " + parameters + "}");
    assertEquals(new RopeConfig(10_000, new RopeConfig.Linear(4)), both.layers().getFirst().rope());
    ModelConfig empty = read("{\"rope_scaling\": {}, " + parameters + "}");
    assertEquals(RopeConfig.plain(5e5), empty.layers().getFirst().rope());
  }

  /** transformers prefers it to what {@code rope_scaling} says. */
  @Test
  void takesTheOriginalPositionsOutsideTheParameters() throws IOException {
    ModelConfig config =
        read(
            """
            {"original_max_position_embeddings": 16,
             "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 32}}
            """);
    assertEquals(
        new RopeConfig(10_000, new RopeConfig.Llama3(8, 1, 4, 16)),
        config.layers().getFirst().rope());
  }

  @Test
  void fillsInWhatTransformersDoes() throws IOException {
    ModelConfig config =
        read(
            """
            {"num_key_value_heads": null, "rms_norm_eps": null, "max_position_embeddings": null,
             "bos_token_id": null, "eos_token_id": null, "architectures": null}
            """);
    assertEquals(6, config.numKvHeads());
    assertEquals(1e-6, config.normEps());
    assertEquals(2048, config.maxPositionEmbeddings());
    assertEquals(RopeConfig.plain(10_000), config.layers().getFirst().rope());
    assertEquals(Set.of(), config.specialIds());
  }

  /** As the families' configurations of transformers 5 have it. */
  @ParameterizedTest
  @CsvSource({"llama,64,64", "mistral,8,64", "qwen2,32,64", "qwen3,32,64", "gemma2,4,64"})
  void takesAbsentHeadsOfKeysForTheFamilys(String type, int absent, int none) throws IOException {
    String json =
        """
        {"model_type": "%s", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 64,
         "intermediate_size": 20, "vocab_size": 100%s}
        """;
    assertEquals(absent, readText(json.formatted(type, "")).numKvHeads());
    assertEquals(
        none, readText(json.formatted(type, ", \"num_key_value_heads\": null")).numKvHeads());
  }

  /** As LlamaConfig of transformers has it. */
  @Test
  void takesAbsentSpecialIdsForOneAndTwo() throws IOException {
    String none = SMALL.replace(", \"bos_token_id\": 1, \"eos_token_id\": 2", "");
    Path file = Files.writeString(folder.resolve("config.json"), none);
    assertEquals(Set.of(1, 2), ModelConfig.read(file, warnings::add).specialIds());
  }

  /** As transformers saves a GPT-2 of another vocabulary, and as -1 says none. */
  @Test
  void takesIdsOfNoTokenForNone() throws IOException {
    ModelConfig config = read("{\"bos_token_id\": -1, \"eos_token_id\": [2, 100, 4294967298]}");
    assertEquals(OptionalInt.empty(), config.bos());
    assertEquals(List.of(2), config.eos());
    String file = folder.resolve("config.json") + ": ";
    String none = ", no id of a vocabulary of 100: taken for none";
    assertEquals(
        List.of(
            file + "bos_token_id is -1" + none,
            file + "eos_token_id is 100" + none,
            file + "eos_token_id is 4294967298" + none),
        warnings);
    assertEquals(Set.of(2), config.specialIds());
    ModelConfig gpt2 =
        readText(
            "{\"model_type\": \"gpt2\", \"n_embd\": 12, \"n_head\": 3, \"n_layer\": 2,"
                + " \"vocab_size\": 64, \"bos_token_id\": 50256, \"eos_token_id\": 50256}");
    assertEquals(Set.of(), gpt2.specialIds());
  }

  /** AutoModel of transformers takes a Mistral with this key for a Ministral. */
  @Test
  void ministralsLayersSeeWhatTheirTypeSays() throws IOException {
    String types = "\"full_attention\", \"sliding_attention\", \"full_attention\"";
    assertEquals(
        List.of(0, 16, 0, 0, 16, 0),
        windows(
            family(
                "mistral",
                ", \"sliding_window\": 16, \"layer_types\": [%s, %s]".formatted(types, types))));
    assertEquals(
        List.of(16, 16, 16, 16, 16, 16),
        windows(family("mistral", ", \"sliding_window\": 16, \"layer_types\": null")));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "{}",
        "{\"rope_theta\": 1e5, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}}",
        "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1,"
            + " \"high_freq_factor\": 4, \"original_max_position_embeddings\": 16}}",
        "{\"tie_word_embeddings\": true, \"head_dim\": 4, \"eos_token_id\": [2, 3]}",
        "{\"bos_token_id\": null, \"eos_token_id\": null}"
      })
  void writesWhatItReads(String changes) throws IOException {
    ModelConfig config = read(changes);
    Path written = folder.resolve("written.json");
    AtomicFiles.write(written, config.toJson());
    assertSameBut("source", config, ModelConfig.read(written, warnings::add));
    assertEquals(config.toJson(), ModelConfig.read(written, warnings::add).toJson());
  }

  /** As transformers fills in what configurations of the Hub leave out. */
  @Test
  void knowsWhatAFamilyLeavesUnsaid() throws IOException {
    ModelConfig gemma2 = family("gemma2", "");
    assertEquals(ModelFamily.GEMMA2, gemma2.family());
    assertEquals(256, gemma2.headDim());
    assertEquals(1.0 / 16, gemma2.attentionScale());
    assertEquals(50, gemma2.attentionSoftcap());
    assertEquals(30, gemma2.finalSoftcap());
    assertEquals(List.of(4096, 0, 4096, 0, 4096, 0), windows(gemma2));
    assertEquals(ModelConfig.MlpActivation.GELU_TANH, gemma2.activation());
    assertTrue(gemma2.tieWordEmbeddings());

    ModelConfig gemma3 = family("gemma3_text", ", \"sliding_window_pattern\": 3");
    assertEquals(0, gemma3.attentionSoftcap());
    assertEquals(0, gemma3.finalSoftcap());
    assertEquals(List.of(4096, 4096, 0, 4096, 4096, 0), windows(gemma3));
    assertEquals(RopeConfig.plain(1e4), gemma3.layers().get(0).rope());
    assertEquals(RopeConfig.plain(1e6), gemma3.layers().get(2).rope());

    assertEquals(List.of(0, 0, 0, 0, 0, 0), windows(family("qwen2", "")));
    ModelConfig qwen2 = family("qwen2", ", \"use_sliding_window\": true, \"max_window_layers\": 4");
    assertEquals(List.of(0, 0, 0, 0, 4096, 4096), windows(qwen2));
    assertTrue(qwen2.queryKeyValueBias());
    assertFalse(qwen2.attentionOutBias());
    assertEquals(Set.of(), qwen2.specialIds());
    assertEquals(128, family("qwen3", "").headDim());
    assertEquals(List.of(4096, 4096, 4096, 4096, 4096, 4096), windows(family("mistral", "")));
    assertEquals(
        List.of(0, 0, 0, 0, 0, 0), windows(family("mistral", ", \"sliding_window\": null")));

    ModelConfig neox = family("gpt_neox", ", \"rotary_pct\": 0.5");
    assertEquals(8, neox.rotaryDim());
    assertEquals(4, family("gpt_neox", ", \"partial_rotary_factor\": 0.5").rotaryDim());
    assertTrue(neox.parallelResidual());
    assertEquals(ModelConfig.MlpActivation.GELU_ERF, neox.activation());
    assertEquals(Set.of(0, 2), neox.specialIds());
  }

  @Test
  void readsGpt2UnderItsOwnNames() throws IOException {
    ModelConfig gpt2 =
        readText(
            "{\"model_type\": \"gpt2\", \"n_embd\": 12, \"n_head\": 3, \"n_layer\": 2,"
                + " \"vocab_size\": 50257}");
    assertEquals(48, gpt2.intermediateSize());
    assertEquals(1024, gpt2.maxPositionEmbeddings());
    assertEquals(0, gpt2.rotaryDim());
    assertEquals(Set.of(50256), gpt2.specialIds());
    assertTrue(gpt2.queryKeyValueBias() && gpt2.attentionOutBias() && gpt2.mlpBias());
  }

  /** Settings that change what a family computes. */
  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      textBlock =
          """
          gemma2      | "use_bidirectional_attention": true   | use_bidirectional_attention is true
          gemma2      | "query_pre_attn_scalar": 0            | query_pre_attn_scalar is not positive
          gemma2      | "final_logit_softcapping": -1         | final_logit_softcapping is not positive
          gemma2      | "layer_types": ["full_attention"]     | layer_types names 1 of 6 layers
          gemma3_text | "sliding_window": 0                   | sliding_window is 0
          gemma3_text | "rope_parameters": {"full_attention": {"rope_type": "yarn"}} | rope_type is yarn
          gemma3_text | "rope_parameters": {"rope_type": "linear", "factor": 2} | rope_parameters has no full_attention
          gemma3_text | "rope_scaling": {"rope_type": "linear", "factor": 2}, "rope_parameters": {"full_attention": {}} | rope_scaling is set beside rope_parameters
          gemma3_text | "attn_logit_softcapping": 50          | attn_logit_softcapping is set, which the family does not have
          mistral     | "layer_types": ["full_attention"]     | layer_types names 1 of 6 layers
          mistral     | "attention_bias": true                | attention_bias is true, which the family does not have
          qwen3       | "mlp_bias": true                      | mlp_bias is true, which the family does not have
          gpt_neox    | "rotary_pct": 0.1                     | rotary_pct is 0.1: 1 of a head's 16 elements
          gpt_neox    | "num_attention_heads": 7              | hidden_size is 96, not a multiple of 7 heads
          gpt_neox    | "hidden_act": "gelu_10"               | hidden_act is gelu_10, which is not supported
          """)
  void refusesWhatAFamilyCannotCompute(String type, String key, String fault) throws IOException {
    Path file = folder.resolve("config.json");
    assertRefused(file, () -> family(type, ", " + key), fault);
  }

  private static List<Integer> windows(ModelConfig config) {
    return config.layers().stream().map(ModelConfig.Layer::window).toList();
  }

  /** The sizes alone, and some more keys; the last of equal keys would be refused. */
  private ModelConfig family(String type, String more) throws IOException {
    String six = ", \"num_attention_heads\": 6, \"num_key_value_heads\": 6";
    String heads = more.contains("num_attention_heads") ? "" : six;
    return readText(
        "{\"model_type\": \"%s\", \"hidden_size\": 96, \"num_hidden_layers\": 6%s,"
                .formatted(type, heads)
            + " \"intermediate_size\": 100, \"vocab_size\": 300%s}".formatted(more));
  }

  private ModelConfig readText(String text) throws IOException {
    return ModelConfig.read(Files.writeString(folder.resolve("config.json"), text), warnings::add);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      textBlock =
          """
          {"architectures": ["BertModel"]}        | architecture BertModel is not supported; supported: LlamaForCausalLM, MistralForCausalLM
          {"architectures": ["A", "B"]}           | architectures is not a list of one name
          {"architectures": "LlamaForCausalLM"}   | architectures is not a list of one name
          {"architectures": null, "model_type": "bert"} | architecture bert is not supported
          {"architectures": null, "model_type": null}   | architecture (not named) is not supported
          {"hidden_size": null}                   | hidden_size is missing
          {"hidden_size": 0}                      | hidden_size is 0
          {"hidden_size": "12"}                   | hidden_size is not an integer
          {"hidden_size": 13}                     | hidden_size is 13, not a multiple of 6 heads
          {"num_hidden_layers": -1}               | num_hidden_layers is -1
          {"num_attention_heads": 0}              | num_attention_heads is 0
          {"num_key_value_heads": 4}              | num_key_value_heads is 4, which does not divide 6 heads
          {"head_dim": 3}                         | head_dim is 3; rotary positions need an even one
          {"head_dim": 2147483646}                | head_dim is 2147483646, impossible with 6 heads
          {"intermediate_size": null}             | intermediate_size is missing
          {"vocab_size": 4294967296}              | vocab_size is 4294967296
          {"rms_norm_eps": -1e-5}                 | rms_norm_eps is negative
          {"max_position_embeddings": 0}          | max_position_embeddings is 0
          {"hidden_act": "mish"}                  | hidden_act is mish, which is not supported
          {"hidden_act": "relu"}                  | hidden_act is relu, which is not supported in a gated MLP
          {"tie_word_embeddings": "yes"}          | tie_word_embeddings is neither true nor false
          {"bos_token_id": 1.5}                   | bos_token_id is 1.5, no id of a token
          {"eos_token_id": "2"}                   | eos_token_id is "2", no id of a token
          {"quantization_config": {"bits": 4}}    | quantization_config is set
          {"rope_theta": 0}                       | rope_theta is not positive
          {"rope_scaling": {"rope_type": "yarn", "factor": 2}}                    | rope_scaling.rope_type is yarn; supported are default, linear and llama3
          {"rope_scaling": {"rope_type": "linear"}}                               | rope_scaling.factor is missing
          {"rope_scaling": {"rope_type": "linear", "factor": -2}}                 | rope_scaling.factor is not positive
          {"rope_scaling": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4}} | low_freq_factor is not below high_freq_factor
          {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}  | partial_rotary_factor is 0.5, which the family does not have
          {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}            | rope_parameters.full_attention is an object
          """)
  void refusesWhatItCannotCompute(String changes, String fault) throws IOException {
    Path file = write(changes);
    assertRefused(file, () -> ModelConfig.read(file, warnings::add), fault);
  }

  private static void assertSameBut(String left, ModelConfig expected, ModelConfig actual) {
    for (RecordComponent component : ModelConfig.class.getRecordComponents()) {
      if (!component.getName().equals(left)) {
        Method get = component.getAccessor();
        assertEquals(
            assertDoesNotThrow(() -> get.invoke(expected)),
            assertDoesNotThrow(() -> get.invoke(actual)),
            component.getName());
      }
    }
  }

  private ModelConfig read(String changes) throws IOException {
    return ModelConfig.read(write(changes), warnings::add);
  }

  /** The small configuration with some keys changed. */
  private Path write(String changes) throws IOException {
    ObjectMapper mapper = new ObjectMapper();
    ObjectNode json = (ObjectNode) mapper.readTree(SMALL);
    json.setAll((ObjectNode) mapper.readTree(changes));
    return Files.writeString(folder.resolve("config.json"), json.toString());
  }
}
