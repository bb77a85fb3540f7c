package espalier.format;

import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.format.SaeSite.Kind;
import java.util.Optional;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class SaeSiteTest {

  @ParameterizedTest
  @CsvSource({
    "blocks.5.hook_resid_post, RESIDUAL, 5",
    "blocks.5.hook_resid_pre, RESIDUAL, 4",
    "blocks.0.hook_resid_pre, EMBEDDING, -1",
    "blocks.5.hook_resid_mid, RESIDUAL_MID, 5",
    "blocks.5.attn.hook_z, ATTENTION_HEADS, 5",
    "blocks.5.hook_attn_out, ATTENTION_OUT, 5",
    "blocks.5.hook_mlp_out, MLP_OUT, 5",
    "blocks.5.hook_mlp_in, MLP_IN, 5",
    "blocks.5.ln2.hook_normalized, MLP_IN, 5",
    "hook_embed, EMBEDDING, -1",
    "blocks.hook_embed, EMBEDDING, -1",
    "model.layers.12, RESIDUAL, 12",
    "layers.12, RESIDUAL, 12",
    "model.layers.22.output, RESIDUAL, 22",
    "model.layers.22.input, RESIDUAL, 21",
    "model.language_model.layers.3, RESIDUAL, 3",
    "gpt_neox.layers.9, RESIDUAL, 9",
    "transformer.h.9, RESIDUAL, 9",
    "h.9, RESIDUAL, 9",
    "layers.5.mlp, MLP_MODULE_OUT, 5",
    "model.layers.5.mlp.output, MLP_MODULE_OUT, 5",
    "layers.5.self_attn, ATTENTION_MODULE_OUT, 5",
    "transformer.h.5.attn, ATTENTION_MODULE_OUT, 5",
    "gpt_neox.layers.2.attention, ATTENTION_MODULE_OUT, 2",
    "model.layers.5.self_attn.o_proj.input, ATTENTION_HEADS, 5",
    "transformer.h.5.attn.c_proj.input, ATTENTION_HEADS, 5",
    "model.layers.5.pre_feedforward_layernorm.output, MLP_IN, 5",
    "model.layers.5.post_feedforward_layernorm.output, MLP_OUT, 5",
    "embed_tokens, EMBEDDING, -1",
    "transformer.wte, EMBEDDING, -1",
    "resid_post_layer_3, RESIDUAL, 3",
    "attention_out_layer_3, ATTENTION_MODULE_OUT, 3",
    "mlp_out_layer_3, MLP_MODULE_OUT, 3",
    "layer_7, UNNAMED, 7"
  })
  void mapsEveryNameToOneAddress(String hook, Kind kind, int layer) {
    assertEquals(Optional.of(new SaeSite(kind, layer)), SaeSite.parse(hook));
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "",
        "blocks.5.hook_resid_post.more",
        "blocks.99999999999.hook_resid_post",
        "blocks.x.hook_resid_post",
        "blocks.5.mlp.hook_post",
        "layers",
        "model.layers.5.self_attn.q_proj",
        "model.layers.5.post_attention_layernorm" // of Gemma or of Llama: two places
      })
  void leavesOtherPlacesAlone(String hook) {
    assertEquals(Optional.empty(), SaeSite.parse(hook));
  }
}
