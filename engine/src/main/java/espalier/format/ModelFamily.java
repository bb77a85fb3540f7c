package espalier.format;

import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Optional;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * The families of language models that can be loaded, each described by its names in Hugging Face
 * files and by what its blocks are made of. Sizes and switches of one model are in {@link
 * ModelConfig}.
 */
public enum ModelFamily {
  /** Touvron et al. 2023; Grattafiori et al. 2024. */
  LLAMA("LlamaForCausalLM", "llama", TensorNames.LLAMA, Norm.RMS),

  /** Jiang et al. 2023: Llama's blocks with a sliding window. */
  MISTRAL("MistralForCausalLM", "mistral", TensorNames.LLAMA, Norm.RMS),

  /** Yang et al. 2024: Llama's blocks, in which queries, keys and values have biases. */
  QWEN2("Qwen2ForCausalLM", "qwen2", TensorNames.LLAMA, Norm.RMS),

  /** Yang et al. 2025: the heads of queries and keys are normalised. */
  QWEN3("Qwen3ForCausalLM", "qwen3", TensorNames.LLAMA.withHeadNorms(), Norm.RMS),

  /** Riviere et al. 2024: norms before and after each branch, capped scores and logits. */
  GEMMA2("Gemma2ForCausalLM", "gemma2", TensorNames.LLAMA.withOutputNorms(), Norm.RMS_PLUS_ONE),

  /**
   * Kamath et al. 2025: normalised heads, and five windowed blocks for each block that sees all
   * tokens.
   */
  GEMMA3(
      "Gemma3ForCausalLM",
      "gemma3_text",
      TensorNames.LLAMA.withOutputNorms().withHeadNorms(),
      Norm.RMS_PLUS_ONE),

  /** Radford et al. 2019: learned positions, and weights stored as [inputs, outputs]. */
  GPT2("GPT2LMHeadModel", "gpt2", TensorNames.GPT2, Norm.LAYER),

  /** Black et al. 2022: attention and MLP side by side, and only a part of each head is rotated. */
  GPT_NEOX("GPTNeoXForCausalLM", "gpt_neox", TensorNames.GPT_NEOX, Norm.LAYER);

  /** How activations are normalised, and what the learned gain is. */
  public enum Norm {
    /** RMSNorm times w. */
    RMS,
    /** RMSNorm times 1 + w. */
    RMS_PLUS_ONE,
    /** LayerNorm times w, plus a bias. */
    LAYER
  }

  private final String architecture;
  private final String modelType;
  private final TensorNames names;
  private final Norm norm;

  ModelFamily(String architecture, String modelType, TensorNames names, Norm norm) {
    this.architecture = architecture;
    this.modelType = modelType;
    this.names = names;
    this.norm = norm;
  }

  /** The class in transformers, as {@code architectures} of a configuration names it. */
  public String architecture() {
    return architecture;
  }

  public String modelType() {
    return modelType;
  }

  public TensorNames names() {
    return names;
  }

  public Norm norm() {
    return norm;
  }

  /** Whether token embeddings are multiplied by the square root of their width. */
  public boolean scalesEmbeddings() {
    return this == GEMMA2 || this == GEMMA3;
  }

  /** Whether linear weights are stored as {@code [inputs, outputs]}, as in GPT-2's Conv1D. */
  public boolean storesTransposed() {
    return this == GPT2;
  }

  /**
   * Whether the rows of the fused projection are grouped by head: its query, its key, its value.
   */
  public boolean fusesByHead() {
    return this == GPT_NEOX;
  }

  static Optional<ModelFamily> ofArchitecture(String name) {
    return Arrays.stream(values()).filter(f -> f.architecture.equals(name)).findFirst();
  }

  static Optional<ModelFamily> ofModelType(String name) {
    return Arrays.stream(values()).filter(f -> f.modelType.equals(name)).findFirst();
  }

  static String supported() {
    return Arrays.stream(values()).map(f -> f.architecture).collect(Collectors.joining(", "));
  }

  /**
   * The names of tensors and linear layers. Those within a block come after {@code block}, the
   * block's number and a dot. Null means that the family does not have it.
   *
   * @param base the beginning of all names but those of the head; files of the bare model leave it
   *     out
   * @param positions the table of learned positions
   * @param queryKeyValue three projections, or one that fuses them
   * @param mlpIn gate and up, or the one layer of an MLP without a gate
   */
  public record TensorNames(
      String base,
      String embedding,
      String positions,
      String block,
      String attentionNorm,
      List<String> queryKeyValue,
      String queryNorm,
      String keyNorm,
      String attentionOut,
      String attentionOutNorm,
      String mlpNorm,
      List<String> mlpIn,
      String mlpOut,
      String mlpOutNorm,
      String finalNorm,
      String head) {

    static final TensorNames LLAMA =
        new TensorNames(
            "model.",
            "model.embed_tokens",
            null,
            "model.layers.",
            "input_layernorm",
            List.of("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            null,
            null,
            "self_attn.o_proj",
            null,
            "post_attention_layernorm",
            List.of("mlp.gate_proj", "mlp.up_proj"),
            "mlp.down_proj",
            null,
            "model.norm",
            "lm_head");

    static final TensorNames GPT2 =
        new TensorNames(
            "transformer.",
            "transformer.wte",
            "transformer.wpe",
            "transformer.h.",
            "ln_1",
            List.of("attn.c_attn"),
            null,
            null,
            "attn.c_proj",
            null,
            "ln_2",
            List.of("mlp.c_fc"),
            "mlp.c_proj",
            null,
            "transformer.ln_f",
            "lm_head");

    static final TensorNames GPT_NEOX =
        new TensorNames(
            "gpt_neox.",
            "gpt_neox.embed_in",
            null,
            "gpt_neox.layers.",
            "input_layernorm",
            List.of("attention.query_key_value"),
            null,
            null,
            "attention.dense",
            null,
            "post_attention_layernorm",
            List.of("mlp.dense_h_to_4h"),
            "mlp.dense_4h_to_h",
            null,
            "gpt_neox.final_layer_norm",
            "embed_out");

    /**
     * The same names with a norm behind each branch of a block. What Llama calls the second norm is
     * then the norm behind the first branch.
     */
    TensorNames withOutputNorms() {
      return new TensorNames(
          base,
          embedding,
          positions,
          block,
          attentionNorm,
          queryKeyValue,
          queryNorm,
          keyNorm,
          attentionOut,
          "post_attention_layernorm",
          "pre_feedforward_layernorm",
          mlpIn,
          mlpOut,
          "post_feedforward_layernorm",
          finalNorm,
          head);
    }

    TensorNames withHeadNorms() {
      return new TensorNames(
          base,
          embedding,
          positions,
          block,
          attentionNorm,
          queryKeyValue,
          "self_attn.q_norm",
          "self_attn.k_norm",
          attentionOut,
          attentionOutNorm,
          mlpNorm,
          mlpIn,
          mlpOut,
          mlpOutNorm,
          finalNorm,
          head);
    }

    /** The names of the linear layers of block {@code layer}. */
    List<String> linear(int layer) {
      return Stream.of(queryKeyValue, List.of(attentionOut), mlpIn, List.of(mlpOut))
          .flatMap(List::stream)
          .map(blockPath(layer)::concat)
          .toList();
    }

    /** The names of the embeddings and the head. */
    List<String> outsideBlocks() {
      return Stream.of(embedding, positions, head).filter(Objects::nonNull).toList();
    }

    /** The beginning of the names within block {@code layer}. */
    public String blockPath(int layer) {
      return block + layer + ".";
    }
  }
}
