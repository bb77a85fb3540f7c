package espalier.format;

import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Where in a model an SAE's activations are: one address for what TransformerLens, Hugging Face,
 * sparsify, dictionary_learning and Gemma Scope call by names of their own.
 *
 * @param layer the block, counted from 0; -1 for embeddings
 */
public record SaeSite(Kind kind, int layer) {

  /** Places in a block, in the order of the forward pass. */
  public enum Kind {
    /** What enters the first block. */
    EMBEDDING,
    /** The heads side by side: what the attention's output projection reads. */
    ATTENTION_HEADS,
    /**
     * What the attention module gives, before Gemma's norm of it: {@link #ATTENTION_OUT} where the
     * family has no such norm.
     */
    ATTENTION_MODULE_OUT,
    /** What attention adds to the stream, behind Gemma's norm of it. */
    ATTENTION_OUT,
    /** The stream between attention and MLP. */
    RESIDUAL_MID,
    /** What the MLP reads, behind its norm. */
    MLP_IN,
    /** What the MLP's module gives, likewise before Gemma's norm. */
    MLP_MODULE_OUT,
    /** What the MLP adds to the stream, behind Gemma's norm of it. */
    MLP_OUT,
    /** The stream after the block. */
    RESIDUAL,
    /** The block is known, the place in it is not. */
    UNNAMED;

    /**
     * In lower case, for people. What a module gives and what is added to the stream are one place
     * to all but Gemma, and have one name.
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
   * Not post_attention_layernorm: what attention adds in Gemma, in Llama what the MLP reads, and a
   * name does not say of which.
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

  /** A block's input is the output of the block before it. */
  private static final List<Pattern> INPUTS =
      List.of(
          Pattern.compile("blocks\\.(\\d{1,6})\\.hook_resid_pre"),
          Pattern.compile(BLOCK + "\\.input"));

  private static final Pattern EMBEDDINGS =
      Pattern.compile(
          "(?:blocks\\.)?hook_embed|(?:(?:model|transformer|gpt_neox)\\.)?(?:embed_tokens|wte|embed_in)");

  /** The stream after block {@code layer}. */
  public static SaeSite residual(int layer) {
    return layer < 0 ? new SaeSite(Kind.EMBEDDING, -1) : new SaeSite(Kind.RESIDUAL, layer);
  }

  /** What a hook's name means; empty for other places and no name. */
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
