package espalier.model;

import espalier.autograd.CausalAttention;
import espalier.autograd.GatedActivation;
import espalier.autograd.Parameter;
import espalier.format.ModelConfig;
import espalier.nn.Attention;
import espalier.nn.DecoderBlock;
import espalier.nn.GatedMlp;
import espalier.nn.Linear;
import espalier.nn.Linear.Projection;
import espalier.nn.RmsNorm;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;

/**
 * The Llama family (Touvron et al. 2023): its weights by name and shape, and its blocks made of
 * them.
 */
final class LlamaLayout {

  static final String EMBEDDING = "model.embed_tokens.weight";
  static final String FINAL_NORM = "model.norm.weight";
  static final String HEAD = "lm_head.weight";

  private final ModelConfig config;

  LlamaLayout(ModelConfig config) {
    this.config = config;
  }

  /** All weights, in the order of the forward pass. */
  List<WeightStack> stacks() {
    long hidden = config.hiddenSize();
    long vocab = config.vocabSize();
    List<WeightStack> stacks = new ArrayList<>();
    stacks.add(WeightStack.matrix(EMBEDDING, vocab, hidden));
    for (int layer = 0; layer < config.numLayers(); layer++) {
      String path = blockPath(layer);
      stacks.add(WeightStack.vector(path + "input_layernorm.weight", hidden));
      stacks.add(stack(queryKeyValue(path), hidden));
      stacks.add(stack(attentionOut(path), config.numHeads() * config.headDim()));
      stacks.add(WeightStack.vector(path + "post_attention_layernorm.weight", hidden));
      stacks.add(stack(gateUp(path), hidden));
      stacks.add(stack(down(path), config.intermediateSize()));
    }
    stacks.add(WeightStack.vector(FINAL_NORM, hidden));
    if (!config.tieWordEmbeddings()) {
      stacks.add(WeightStack.matrix(HEAD, vocab, hidden));
    }
    return stacks;
  }

  /** Block {@code layer}, its weights looked up by the names of their stacks. */
  DecoderBlock block(int layer, Function<String, Parameter> weights, RotaryTable rotary) {
    String path = blockPath(layer);
    CausalAttention core =
        new CausalAttention(
            config.numHeads(),
            config.numKvHeads(),
            config.headDim(),
            (float) (1 / Math.sqrt(config.headDim())),
            0,
            0,
            rotary.cos(),
            rotary.sin());
    return new DecoderBlock(
        norm(path + "input_layernorm.weight", weights),
        new Attention(
            linear(queryKeyValue(path), weights), core, linear(attentionOut(path), weights)),
        norm(path + "post_attention_layernorm.weight", weights),
        new GatedMlp(
            linear(gateUp(path), weights), GatedActivation.Kind.SILU, linear(down(path), weights)));
  }

  RmsNorm norm(String name, Function<String, Parameter> weights) {
    return new RmsNorm(weights.apply(name), 0, (float) config.rmsNormEps());
  }

  static String blockPath(int layer) {
    return "model.layers." + layer + ".";
  }

  private List<Projection> queryKeyValue(String path) {
    long kv = (long) config.numKvHeads() * config.headDim();
    return List.of(
        new Projection(path + "self_attn.q_proj", (long) config.numHeads() * config.headDim()),
        new Projection(path + "self_attn.k_proj", kv),
        new Projection(path + "self_attn.v_proj", kv));
  }

  private List<Projection> attentionOut(String path) {
    return List.of(new Projection(path + "self_attn.o_proj", config.hiddenSize()));
  }

  private List<Projection> gateUp(String path) {
    return List.of(
        new Projection(path + "mlp.gate_proj", config.intermediateSize()),
        new Projection(path + "mlp.up_proj", config.intermediateSize()));
  }

  private List<Projection> down(String path) {
    return List.of(new Projection(path + "mlp.down_proj", config.hiddenSize()));
  }

  private static WeightStack stack(List<Projection> projections, long inputs) {
    return new WeightStack(
        projections.stream()
            .map(p -> new WeightStack.Part(weight(p), p.outputs(), p.outputs(), inputs))
            .toList(),
        inputs);
  }

  private static Linear linear(List<Projection> projections, Function<String, Parameter> weights) {
    return new Linear(weights.apply(weight(projections.getFirst())), projections);
  }

  private static String weight(Projection projection) {
    return projection.path() + ".weight";
  }
}
