package espalier.format;

import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Where in a model an SAE's activations are. TransformerLens, Hugging Face, sparsify,
 * dictionary_learning and Gemma Scope each have names of their own for these places.
 *
 * @param layer the block, counted from 0; -1 for embeddings
 */
public record SaeSite(Kind kind, int layer) {

  /** The places in a block, in the order of the forward pass. */
  public enum Kind {
    /** What enters the first block. */
    EMBEDDING,
    /** The attention heads side by side: what the attention's output projection reads. */
    ATTENTION_HEADS,
    /**
     * The output of the attention module, before Gemma's norm of it. It is {@link #ATTENTION_OUT}
     * if the family has no such norm.
     */
    ATTENTION_MODULE_OUT,
    /** What attention adds to the residual stream, behind Gemma's norm of it. */
    ATTENTION_OUT,
    /** The residual stream between attention and MLP. */
    RESIDUAL_MID,
    /** What the MLP reads, behind its norm. */
    MLP_IN,
    /** The output of the MLP module, before Gemma's norm of it. */
    MLP_MODULE_OUT,
    /** What the MLP adds to the residual stream, behind Gemma's norm of it. */
    MLP_OUT,
    /** The residual stream after the block. */
    RESIDUAL,
    /** The block is known, but not the place in it. */
    UNNAMED;

    /**
     * The name in lower case, for people. A module's output and what is added to the stream are one
     * place in all families but Gemma, so they have one name.
     */
    public String label() {
      return name().toLowerCase(Locale.ROOT).replace("_module", "").replace('_', ' ');
    }
  }

  private static final String BLOCK =
      "(?:(?:model\\.|transformer\\.|gpt_neox\\.)?(?:language_model\\.)?(?:layers|h))\\.(\\d{1,6})";

  private record Name(Pattern pattern, Kind kind) {
    static Name of(String regex, Kind kind) {
      return new Name(Pattern.compile(regex), kind);
    }
  }

  /**
   * The known names. post_attention_layernorm is not among them: in Gemma it is what attention
   * adds, in Llama what the MLP reads, and a name does not say which family it is of.
   */
  private static final List<Name> NAMES =
      List.of(
          Name.of("blocks\\.(\\d{1,6})\\.hook_resid_post", Kind.RESIDUAL),
          Name.of("blocks\\.(\\d{1,6})\\.hook_resid_mid", Kind.RESIDUAL_MID),
          Name.of("blocks\\.(\\d{1,6})\\.attn\\.hook_z", Kind.ATTENTION_HEADS),
          Name.of("blocks\\.(\\d{1,6})\\.hook_attn_out", Kind.ATTENTION_OUT),
          Name.of("blocks\\.(\\d{1,6})\\.hook_mlp_out", Kind.MLP_OUT),
          Name.of("blocks\\.(\\d{1,6})\\.(?:hook_mlp_in|ln2\\.hook_normalized)", Kind.MLP_IN),
          Name.of(BLOCK + "(?:\\.output)?", Kind.RESIDUAL),
          Name.of(
              BLOCK + "\\.(?:self_attn\\.o_proj|attn\\.c_proj|attention\\.dense)\\.input",
              Kind.ATTENTION_HEADS),
          Name.of(
              BLOCK + "\\.(?:self_attn|attn|attention)(?:\\.output)?", Kind.ATTENTION_MODULE_OUT),
          Name.of(BLOCK + "\\.mlp(?:\\.output)?", Kind.MLP_MODULE_OUT),
          Name.of(BLOCK + "\\.post_feedforward_layernorm(?:\\.output)?", Kind.MLP_OUT),
          Name.of(BLOCK + "\\.(?:mlp\\.input|pre_feedforward_layernorm\\.output)", Kind.MLP_IN),
          Name.of("resid_post_layer_(\\d{1,6})", Kind.RESIDUAL),
          // dictionary_learning's are of torch modules.
          Name.of("att(?:entio)?n_out_layer_(\\d{1,6})", Kind.ATTENTION_MODULE_OUT),
          Name.of("mlp_out_layer_(\\d{1,6})", Kind.MLP_MODULE_OUT),
          Name.of("layer_(\\d{1,6})", Kind.UNNAMED));

  /** Names of a block's input, which is the output of the block before it. */
  private static final List<Pattern> INPUTS =
      List.of(
          Pattern.compile("blocks\\.(\\d{1,6})\\.hook_resid_pre"),
          Pattern.compile(BLOCK + "\\.input"));

  private static final Pattern EMBEDDINGS =
      Pattern.compile(
          "(?:blocks\\.)?hook_embed|(?:(?:model|transformer|gpt_neox)\\.)?(?:embed_tokens|wte|embed_in)");

  /** The residual stream after block {@code layer}. */
  public static SaeSite residual(int layer) {
    return layer < 0 ? new SaeSite(Kind.EMBEDDING, -1) : new SaeSite(Kind.RESIDUAL, layer);
  }

  /** The site that a hook's name means; empty for other places, and for an empty name. */
  public static Optional<SaeSite> parse(String hook) {
    for (Pattern input : INPUTS) {
      Matcher matcher = input.matcher(hook);
      if (matcher.matches()) {
        return Optional.of(residual(Integer.parseInt(matcher.group(1)) - 1));
      }
    }
    for (Name name : NAMES) {
      Matcher matcher = name.pattern.matcher(hook);
      if (matcher.matches()) {
        return Optional.of(new SaeSite(name.kind, Integer.parseInt(matcher.group(1))));
      }
    }
    return EMBEDDINGS.matcher(hook).matches() ? Optional.of(residual(-1)) : Optional.empty();
  }
}
