package espalier.format;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import espalier.format.ModelConfig.Layer;
import espalier.format.ModelConfig.MlpActivation;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;
import java.util.function.Consumer;
import java.util.function.IntFunction;
import java.util.stream.IntStream;

/**
 * Reads configurations as transformers does: with the same keys, and the same defaults if a key is
 * absent. It refuses settings that change what a model computes and that are not supported.
 */
final class ModelConfigReader {

  private final StrictJson json;
  private final ModelFamily family;
  private final Consumer<String> warn;

  private ModelConfigReader(StrictJson json, Consumer<String> warn) {
    this.json = json;
    this.warn = warn;
    family = family(json);
  }

  static ModelConfig read(StrictJson json, Consumer<String> warn) {
    ModelConfigReader reader = new ModelConfigReader(json, warn);
    if (json.has("quantization_config")) {
      throw json.fault("quantization_config", "is set; quantized weights are not supported");
    }
    return reader.read();
  }

  private ModelConfig read() {
    return switch (family) {
      case LLAMA, MISTRAL, QWEN2, QWEN3 -> llamaLike();
      case GEMMA2, GEMMA3 -> gemma();
      case GPT2 -> gpt2();
      case GPT_NEOX -> gptNeoX();
    };
  }

  /**
   * The family that {@code architectures} names; some configurations have only {@code model_type}.
   */
  private static ModelFamily family(StrictJson json) {
    JsonNode names = json.raw("architectures");
    if (names.isMissingNode() || names.isNull()) {
      String type = json.text("model_type", "(not named)");
      return ModelFamily.ofModelType(type).orElseThrow(() -> unsupported(json, type));
    }
    if (names.isArray() && names.size() == 1 && names.get(0).isTextual()) {
      String name = names.get(0).textValue();
      return ModelFamily.ofArchitecture(name).orElseThrow(() -> unsupported(json, name));
    }
    throw json.fault("architectures", "is not a list of one name");
  }

  private static InputException unsupported(StrictJson json, String architecture) {
    return new InputException(
        json.file(),
        "architecture %s is not supported; supported: %s"
            .formatted(architecture, ModelFamily.supported()));
  }

  private ModelConfig llamaLike() {
    int hidden = json.positive("hidden_size");
    Heads heads = heads(hidden, family == ModelFamily.QWEN3 ? 128 : 0);
    int layers = json.positive("num_hidden_layers");
    int positions = positions("max_position_embeddings", defaultPositions());
    RopeConfig rope = RopeConfig.read(json, positions, "rope_theta", 10_000);
    requireWholeHeadsRotated();
    boolean bias = json.flag("attention_bias", false);
    if (bias && (family == ModelFamily.MISTRAL || family == ModelFamily.QWEN2)) {
      throw json.fault("attention_bias", "is true, which the family does not have");
    }
    boolean mlpBias = json.flag("mlp_bias", false);
    if (mlpBias && family != ModelFamily.LLAMA) {
      throw json.fault("mlp_bias", "is true, which the family does not have");
    }
    int vocab = json.positive("vocab_size");
    boolean special = family == ModelFamily.LLAMA || family == ModelFamily.MISTRAL;
    return new ModelConfig(
        family,
        hidden,
        heads.count,
        heads.keyValue,
        heads.dim,
        json.positive("intermediate_size"),
        vocab,
        eps("rms_norm_eps", 1e-6),
        positions,
        json.flag(ModelConfig.TIED, false),
        first(ids("bos_token_id", special ? 1 : -1, vocab)),
        ids("eos_token_id", special ? 2 : -1, vocab),
        activation("hidden_act", "silu", true),
        1 / Math.sqrt(heads.dim),
        0,
        0,
        heads.dim,
        layers(layers, windows(layers), windowed -> rope),
        bias || family == ModelFamily.QWEN2,
        bias,
        mlpBias,
        false,
        json.copy());
  }

  private ModelConfig gemma() {
    if (json.flag("use_bidirectional_attention", false)) {
      throw json.fault("use_bidirectional_attention", "is true, which is not supported");
    }
    boolean third = family == ModelFamily.GEMMA3;
    if (third) {
      refuseWhatGemma3Ignores();
    }
    int hidden = json.positive("hidden_size");
    Heads heads = heads(hidden, 256);
    int layers = json.positive("num_hidden_layers");
    int positions = positions("max_position_embeddings", third ? 131_072 : 8192);
    requireWholeHeadsRotated();
    RopeConfig global = rope(positions, "full_attention", "rope_theta", third ? 1e6 : 1e4);
    RopeConfig local =
        third ? rope(positions, "sliding_attention", "rope_local_base_freq", 1e4) : global;
    int vocab = json.positive("vocab_size");
    boolean bias = json.flag("attention_bias", false);
    String activation = json.text("hidden_activation", "gelu_pytorch_tanh");
    return new ModelConfig(
        family,
        hidden,
        heads.count,
        heads.keyValue,
        heads.dim,
        json.positive("intermediate_size"),
        vocab,
        eps("rms_norm_eps", 1e-6),
        positions,
        json.flag(ModelConfig.TIED, true),
        first(ids("bos_token_id", 2, vocab)),
        ids("eos_token_id", 1, vocab),
        gated("hidden_activation", activation),
        1 / Math.sqrt(positiveNumber("query_pre_attn_scalar", 256)),
        third ? 0 : softcap("attn_logit_softcapping", 50),
        softcap("final_logit_softcapping", third ? 0 : 30),
        heads.dim,
        layers(layers, windows(layers), windowed -> windowed ? local : global),
        bias,
        bias,
        false,
        false,
        json.copy());
  }

  private ModelConfig gpt2() {
    for (String flag : List.of("scale_attn_by_inverse_layer_idx", "add_cross_attention")) {
      if (json.flag(flag, false)) {
        throw json.fault(flag, "is true, which is not supported");
      }
    }
    int hidden = json.positive("n_embd");
    int heads = json.positive("n_head");
    requireDivides("n_embd", hidden, heads);
    int layers = json.positive("n_layer");
    int vocab = json.positive("vocab_size", 50_257);
    boolean scaled = json.flag("scale_attn_weights", true);
    return new ModelConfig(
        family,
        hidden,
        heads,
        heads,
        hidden / heads,
        json.positive("n_inner", Math.multiplyExact(4, hidden)),
        vocab,
        eps("layer_norm_epsilon", 1e-5),
        positions("n_positions", 1024),
        json.flag(ModelConfig.TIED, true),
        first(ids("bos_token_id", 50_256, vocab)),
        ids("eos_token_id", 50_256, vocab),
        activation("activation_function", "gelu_new", false),
        scaled ? 1 / Math.sqrt(hidden / (double) heads) : 1,
        0,
        0,
        0,
        layers(layers, new int[layers], windowed -> null),
        true,
        true,
        true,
        false,
        json.copy());
  }

  private ModelConfig gptNeoX() {
    int hidden = json.positive("hidden_size");
    int heads = json.positive("num_attention_heads");
    requireDivides("hidden_size", hidden, heads);
    int headDim = hidden / heads;
    int layers = json.positive("num_hidden_layers");
    int positions = positions("max_position_embeddings", 2048);
    RopeConfig rope = RopeConfig.read(json, positions, "rotary_emb_base", 10_000);
    double part = RopeConfig.part(json, "rotary_pct", 0.25);
    int rotaryDim = (int) (headDim * part);
    if (rotaryDim < 2 || rotaryDim % 2 != 0 || rotaryDim > headDim) {
      throw json.fault(
          "rotary_pct", "is %s: %d of a head's %d elements".formatted(part, rotaryDim, headDim));
    }
    int vocab = json.positive("vocab_size");
    boolean bias = json.flag("attention_bias", true);
    return new ModelConfig(
        family,
        hidden,
        heads,
        heads,
        headDim,
        json.positive("intermediate_size"),
        vocab,
        eps("layer_norm_eps", 1e-5),
        positions,
        json.flag(ModelConfig.TIED, false),
        first(ids("bos_token_id", 0, vocab)),
        ids("eos_token_id", 2, vocab),
        activation("hidden_act", "gelu", false),
        1 / Math.sqrt(headDim),
        0,
        0,
        rotaryDim,
        layers(layers, new int[layers], windowed -> rope),
        bias,
        bias,
        true,
        json.flag("use_parallel_residual", true),
        json.copy());
  }

  private record Heads(int count, int keyValue, int dim) {}

  /**
   * Reads the numbers of heads and their width.
   *
   * @param defaultDim the width if the configuration does not give it; 0: the hidden size is
   *     divided among the heads
   */
  private Heads heads(int hidden, int defaultDim) {
    int heads = json.positive("num_attention_heads");
    boolean isNull = json.raw("num_key_value_heads").isNull();
    int keyValue = json.positive("num_key_value_heads", isNull ? heads : defaultKeyValue(heads));
    if (heads % keyValue != 0) {
      throw json.fault(
          "num_key_value_heads",
          "is %d, which does not divide %d heads".formatted(keyValue, heads));
    }
    if (!json.has("head_dim") && defaultDim == 0) {
      requireDivides("hidden_size", hidden, heads);
    }
    int dim = json.positive("head_dim", defaultDim > 0 ? defaultDim : Math.max(1, hidden / heads));
    if (dim % 2 != 0) {
      throw json.fault("head_dim", "is " + dim + "; rotary positions need an even one");
    }
    if ((long) heads * dim > Integer.MAX_VALUE) {
      throw json.fault("head_dim", "is " + dim + ", impossible with " + heads + " heads");
    }
    return new Heads(heads, keyValue, dim);
  }

  private void requireDivides(String key, int hidden, int heads) {
    if (hidden % heads != 0) {
      throw json.fault(key, "is %d, not a multiple of %d heads".formatted(hidden, heads));
    }
  }

  /** How many heads of keys and values transformers takes where a configuration is silent. */
  private int defaultKeyValue(int heads) {
    return switch (family) {
      case MISTRAL -> 8;
      case QWEN2, QWEN3 -> 32;
      case GEMMA2, GEMMA3 -> 4;
      default -> heads;
    };
  }

  private int defaultPositions() {
    return switch (family) {
      case MISTRAL -> 131_072;
      case QWEN2, QWEN3 -> 32_768;
      default -> 2048;
    };
  }

  private int positions(String key, int absent) {
    return json.positive(key, absent);
  }

  private double eps(String key, double absent) {
    double eps = json.number(key, absent);
    if (eps < 0) {
      throw json.fault(key, "is negative");
    }
    return eps;
  }

  private double positiveNumber(String key, double absent) {
    double value = json.number(key, absent);
    if (value <= 0) {
      throw json.fault(key, "is not positive");
    }
    return value;
  }

  /** Reads a cap. Null means none; an absent key means the family's default. */
  private double softcap(String key, double absent) {
    if (json.raw(key).isMissingNode()) {
      return absent;
    }
    return json.has(key) ? positiveNumber(key, absent) : 0;
  }

  private void requireWholeHeadsRotated() {
    double part = RopeConfig.part(json, "partial_rotary_factor", 1);
    if (part != 1) {
      throw json.fault(
          "partial_rotary_factor", "is %s, which the family does not have".formatted(part));
    }
  }

  /** Refuses settings of Gemma 3 that transformers reads, but then does not follow. */
  private void refuseWhatGemma3Ignores() {
    if (json.has("attn_logit_softcapping")) {
      throw json.fault("attn_logit_softcapping", "is set, which the family does not have");
    }
    List<String> kinds = json.object("rope_parameters").map(StrictJson::keys).orElse(List.of());
    if (!kinds.isEmpty() && !kinds.contains("full_attention")) {
      throw json.fault("rope_parameters", "has no full_attention");
    }
    if (!kinds.isEmpty() && RopeConfig.scaling(json).isPresent()) {
      throw json.fault("rope_scaling", "is set beside rope_parameters: remove one of them");
    }
  }

  private MlpActivation activation(String key, String absent, boolean gated) {
    String name = json.text(key, absent);
    return gated ? gated(key, name) : plain(key, name);
  }

  private MlpActivation gated(String key, String name) {
    MlpActivation activation = plain(key, name);
    if (activation == MlpActivation.RELU) {
      throw json.fault(key, "is relu, which is not supported in a gated MLP");
    }
    return activation;
  }

  private MlpActivation plain(String key, String name) {
    return switch (name) {
      case "silu", "swish" -> MlpActivation.SILU;
      case "gelu_new", "gelu_pytorch_tanh", "gelu_fast" -> MlpActivation.GELU_TANH;
      case "gelu" -> MlpActivation.GELU_ERF;
      case "relu" -> MlpActivation.RELU;
      default -> throw json.fault(key, "is " + name + ", which is not supported");
    };
  }

  /**
   * The rotary positions of one kind of block. transformers 5 has separate ones for each kind,
   * older versions do not.
   */
  private RopeConfig rope(int positions, String kind, String thetaKey, double theta) {
    StrictJson own = json.object("rope_parameters").flatMap(all -> all.object(kind)).orElse(null);
    if (own != null) {
      return RopeConfig.of(json, own, positions, thetaKey, theta);
    }
    return kind.equals("sliding_attention")
        ? RopeConfig.plain(json.number(thetaKey, theta))
        : RopeConfig.read(json, positions, thetaKey, theta);
  }

  private static List<Layer> layers(int count, int[] windows, Rope rope) {
    IntFunction<Layer> layer = i -> new Layer(windows[i], rope.of(windows[i] > 0));
    return IntStream.range(0, count).mapToObj(layer).toList();
  }

  private interface Rope {
    RopeConfig of(boolean windowed);
  }

  /** How many tokens back each block sees; 0 for all. */
  private int[] windows(int layers) {
    int window =
        json.raw("sliding_window").isNull()
            ? 0
            : json.positive(
                "sliding_window", family == ModelFamily.LLAMA ? Integer.MAX_VALUE : 4096);
    boolean[] windowed = windowed(layers);
    int[] windows = new int[layers];
    for (int i = 0; i < layers; i++) {
      windows[i] = windowed[i] ? window : 0;
    }
    return windows;
  }

  private boolean[] windowed(int layers) {
    boolean[] windowed = new boolean[layers];
    JsonNode types = json.raw("layer_types");
    if (types.isArray() && family != ModelFamily.LLAMA) {
      if (types.size() != layers) {
        throw json.fault("layer_types", "names %d of %d layers".formatted(types.size(), layers));
      }
      for (int i = 0; i < layers; i++) {
        windowed[i] =
            switch (types.get(i).asText()) {
              case "full_attention" -> false;
              case "sliding_attention" -> true;
              default -> throw json.fault("layer_types", "has " + types.get(i) + ", not supported");
            };
      }
      return windowed;
    }
    for (int i = 0; i < layers; i++) {
      windowed[i] =
          switch (family) {
            case MISTRAL -> true;
            case QWEN2, QWEN3 -> json.flag("use_sliding_window", false) && i >= maxWindowLayers();
            case GEMMA2 -> i % 2 == 0;
            case GEMMA3 -> (i + 1) % json.positive("sliding_window_pattern", 6) != 0;
            default -> false;
          };
    }
    return windowed;
  }

  private long maxWindowLayers() {
    return json.has("max_window_layers") ? json.integer("max_window_layers") : 28;
  }

  private static OptionalInt first(List<Integer> ids) {
    return ids.isEmpty() ? OptionalInt.empty() : OptionalInt.of(ids.getFirst());
  }

  /**
   * Reads one id or a list of them; null means none. So do ids that no token has: transformers
   * writes its default of 50256 for a GPT-2 of any vocabulary, and -1 is common.
   *
   * @param absent what transformers takes if the key is absent; negative for none
   */
  private List<Integer> ids(String key, int absent, int vocab) {
    JsonNode value = json.raw(key);
    if (value.isNull() || (value.isMissingNode() && absent < 0)) {
      return List.of();
    }
    if (value.isMissingNode()) {
      value = JsonNodeFactory.instance.numberNode(absent);
    }
    List<Integer> ids = new ArrayList<>();
    for (JsonNode id : value.isArray() ? value : JsonNodeFactory.instance.arrayNode().add(value)) {
      if (!id.isIntegralNumber()) {
        throw json.fault(key, "is " + id + ", no id of a token");
      }
      if (!id.isInt() || id.intValue() < 0 || id.intValue() >= vocab) {
        warn.accept(
            json.remark(
                key, "is %s, no id of a vocabulary of %d: taken for none".formatted(id, vocab)));
      } else {
        ids.add(id.intValue());
      }
    }
    return ids;
  }
}
