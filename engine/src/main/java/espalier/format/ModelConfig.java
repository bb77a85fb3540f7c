package espalier.format;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;
import java.util.Set;
import java.util.TreeSet;

/**
 * What {@code config.json} says of a language model, under Hugging Face's names.
 *
 * @param bos id that begins a text, if the model has one
 * @param eos ids that end one
 */
public record ModelConfig(
    int hiddenSize,
    int numLayers,
    int numHeads,
    int numKvHeads,
    int headDim,
    int intermediateSize,
    int vocabSize,
    double rmsNormEps,
    int maxPositionEmbeddings,
    boolean tieWordEmbeddings,
    OptionalInt bos,
    List<Integer> eos,
    RopeConfig rope) {

  public static final String LLAMA = "LlamaForCausalLM";
  private static final List<String> SUPPORTED = List.of(LLAMA);

  /** BOS and EOS: positions where an SAE is not applied. */
  public Set<Integer> specialIds() {
    Set<Integer> ids = new TreeSet<>(eos);
    bos.ifPresent(ids::add);
    return ids;
  }

  public static ModelConfig read(Path file) {
    StrictJson json = StrictJson.read(file);
    String architecture = architecture(json);
    if (!SUPPORTED.contains(architecture)) {
      throw new InputException(
          file,
          "architecture %s is not supported; supported: %s"
              .formatted(architecture, String.join(", ", SUPPORTED)));
    }
    if (json.has("quantization_config")) {
      throw json.fault("quantization_config", "is set; quantized weights are not supported");
    }
    refuse(json, "attention_bias");
    refuse(json, "mlp_bias");
    if (!json.text("hidden_act", "silu").equals("silu")) {
      throw json.fault("hidden_act", "is " + json.text("hidden_act") + ", only silu is supported");
    }
    int hidden = json.positive("hidden_size");
    int heads = json.positive("num_attention_heads");
    int kvHeads = json.positive("num_key_value_heads", heads);
    if (heads % kvHeads != 0) {
      throw json.fault(
          "num_key_value_heads", "is %d, which does not divide %d heads".formatted(kvHeads, heads));
    }
    if (!json.has("head_dim") && hidden % heads != 0) {
      throw json.fault("hidden_size", "is %d, not a multiple of %d heads".formatted(hidden, heads));
    }
    int headDim = json.positive("head_dim", Math.max(1, hidden / heads));
    if (headDim % 2 != 0) {
      throw json.fault("head_dim", "is " + headDim + "; rotary positions need an even one");
    }
    if ((long) heads * headDim > Integer.MAX_VALUE) {
      throw json.fault("head_dim", "is " + headDim + ", impossible with " + heads + " heads");
    }
    int vocab = json.positive("vocab_size");
    double eps = json.number("rms_norm_eps", 1e-6);
    if (eps < 0) {
      throw json.fault("rms_norm_eps", "is negative");
    }
    int positions = json.positive("max_position_embeddings", 2048);
    List<Integer> bos = ids(json, "bos_token_id", 1, vocab);
    return new ModelConfig(
        hidden,
        json.positive("num_hidden_layers"),
        heads,
        kvHeads,
        headDim,
        json.positive("intermediate_size"),
        vocab,
        eps,
        positions,
        json.flag("tie_word_embeddings", false),
        bos.isEmpty() ? OptionalInt.empty() : OptionalInt.of(bos.getFirst()),
        ids(json, "eos_token_id", 2, vocab),
        RopeConfig.read(json, positions));
  }

  /** As {@code architectures} names it; some configurations have {@code model_type} alone. */
  private static String architecture(StrictJson json) {
    JsonNode names = json.raw("architectures");
    if (names.isArray() && names.size() == 1 && names.get(0).isTextual()) {
      return names.get(0).textValue();
    }
    if (names.isMissingNode() || names.isNull()) {
      String type = json.text("model_type", "(not named)");
      return type.equals("llama") ? LLAMA : type;
    }
    throw json.fault("architectures", "is not a list of one name");
  }

  private static void refuse(StrictJson json, String flag) {
    if (json.flag(flag, false)) {
      throw json.fault(flag, "is true, which is not supported");
    }
  }

  /** One id or a list; null for none, and transformers' choice where the key is absent. */
  private static List<Integer> ids(StrictJson json, String key, int absent, int vocab) {
    JsonNode value = json.raw(key);
    if (value.isNull()) {
      return List.of();
    }
    if (value.isMissingNode()) {
      value = JsonNodeFactory.instance.numberNode(absent);
    }
    List<Integer> ids = new ArrayList<>();
    for (JsonNode id : value.isArray() ? value : JsonNodeFactory.instance.arrayNode().add(value)) {
      if (!id.isInt() || id.intValue() < 0 || id.intValue() >= vocab) {
        throw json.fault(key, "is " + id + ", no id of a vocabulary of " + vocab);
      }
      ids.add(id.intValue());
    }
    return ids;
  }

  /** A {@code config.json} that transformers loads. */
  public ObjectNode toJson() {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.putArray("architectures").add(LLAMA);
    json.put("model_type", "llama");
    json.put("hidden_size", hiddenSize);
    json.put("num_hidden_layers", numLayers);
    json.put("num_attention_heads", numHeads);
    json.put("num_key_value_heads", numKvHeads);
    json.put("head_dim", headDim);
    json.put("intermediate_size", intermediateSize);
    json.put("vocab_size", vocabSize);
    json.put("rms_norm_eps", rmsNormEps);
    json.put("max_position_embeddings", maxPositionEmbeddings);
    json.put("tie_word_embeddings", tieWordEmbeddings);
    json.put("hidden_act", "silu");
    json.put("attention_bias", false);
    json.put("mlp_bias", false);
    json.put("torch_dtype", "float32");
    json.put("bos_token_id", bos.isPresent() ? bos.getAsInt() : null);
    if (eos.size() > 1) {
      eos.forEach(json.putArray("eos_token_id")::add);
    } else {
      json.put("eos_token_id", eos.isEmpty() ? null : eos.getFirst());
    }
    rope.write(json);
    return json;
  }
}
