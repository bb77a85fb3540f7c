package espalier.model;

import espalier.autograd.Embedding;
import espalier.autograd.Parameter;
import espalier.autograd.ParameterSet;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.nn.Adapters;
import espalier.nn.DecoderBlock;
import espalier.nn.Linear.Projection;
import espalier.nn.RmsNorm;
import espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import java.util.random.RandomGenerator;
import java.util.stream.Stream;

/**
 * A decoder-only transformer, recorded block by block, so that several streams of activations
 * (teacher and student) can share what they have in common.
 */
public final class LanguageModel {

  private final ModelConfig config;
  private final Parameter embedding;
  private final List<DecoderBlock> blocks;
  private final RmsNorm finalNorm;
  private final Parameter head;
  private final List<WeightStack> stacks;
  private final Map<String, Parameter> weights;
  private final RotaryTable rotary;

  private LanguageModel(
      ModelConfig config,
      List<WeightStack> stacks,
      Map<String, Parameter> weights,
      RotaryTable rotary) {
    this.config = config;
    this.stacks = stacks;
    this.weights = weights;
    this.rotary = rotary;
    LlamaLayout layout = new LlamaLayout(config);
    embedding = weights.get(LlamaLayout.EMBEDDING);
    blocks = new ArrayList<>();
    for (int layer = 0; layer < config.numLayers(); layer++) {
      blocks.add(layout.block(layer, weights::get, rotary));
    }
    finalNorm = layout.norm(LlamaLayout.FINAL_NORM, weights::get);
    head = config.tieWordEmbeddings() ? embedding : weights.get(LlamaLayout.HEAD);
  }

  /**
   * A frozen model from files: each weight is converted to float32 on its way into device memory.
   */
  public static LanguageModel load(Device device, ModelFolder folder) {
    List<WeightStack> stacks = new LlamaLayout(folder.config()).stacks();
    Map<String, Parameter> weights = new LinkedHashMap<>();
    for (WeightStack stack : stacks) {
      Tensor value = Tensor.allocate(device, stack.rows(), stack.cols());
      long row = 0;
      for (WeightStack.Part part : stack.parts()) {
        folder.tensor(part.tensor(), part.shape()).copyTo(device, value.rows(row, part.rows()));
        row += part.rows();
      }
      weights.put(stack.name(), Parameter.frozen(stack.name(), value));
    }
    folder.requireAllTaken();
    return new LanguageModel(
        folder.config(), stacks, weights, RotaryTable.of(device, folder.config()));
  }

  /** The parameters of a model that is to be trained. */
  public static ParameterSet parameters(Device device, ModelConfig config) {
    return new ParameterSet(
        device,
        new LlamaLayout(config)
            .stacks().stream()
                .map(s -> new ParameterSet.Shape(s.name(), s.rows(), s.cols()))
                .toList());
  }

  /**
   * A model over trained parameters of {@link #parameters}, initialised as GPT-2 is: normal with
   * standard deviation 0.02, projections back into the residual stream scaled by 1/sqrt(2 layers),
   * gains 1 (Radford et al. 2019, 2.3).
   */
  public static LanguageModel initialise(
      Device device, ModelConfig config, ParameterSet parameters, RandomGenerator random) {
    List<WeightStack> stacks = new LlamaLayout(config).stacks();
    Map<String, Parameter> weights = new LinkedHashMap<>();
    double residual = 1 / Math.sqrt(2.0 * config.numLayers());
    for (WeightStack stack : stacks) {
      Parameter parameter = parameters.get(stack.name());
      boolean gain = stack.name().endsWith("norm.weight");
      boolean back =
          stack.name().endsWith("o_proj.weight") || stack.name().endsWith("down_proj.weight");
      float[] values = new float[Math.toIntExact(parameter.value().size())];
      for (int i = 0; i < values.length; i++) {
        values[i] = gain ? 1 : (float) (random.nextGaussian() * 0.02 * (back ? residual : 1));
      }
      parameter.value().copyFrom(values);
      weights.put(stack.name(), parameter);
    }
    return new LanguageModel(config, stacks, weights, RotaryTable.of(device, config));
  }

  /**
   * A model over trained parameters of {@link #parameters} that starts with the weights of another.
   */
  public static LanguageModel trainable(
      Device device, LanguageModel from, ParameterSet parameters) {
    Map<String, Parameter> weights = new LinkedHashMap<>();
    from.weights.forEach(
        (name, weight) -> {
          Parameter parameter = parameters.get(name);
          device.kernels().copy(weight.data(), parameter.data(), weight.value().size());
          weights.put(name, parameter);
        });
    return new LanguageModel(from.config, from.stacks, weights, from.rotary);
  }

  /** The same model, for passes that do not train it. */
  public LanguageModel frozen() {
    Map<String, Parameter> frozen = new LinkedHashMap<>();
    weights.forEach((name, parameter) -> frozen.put(name, parameter.frozen()));
    return new LanguageModel(config, stacks, frozen, rotary);
  }

  public ModelConfig config() {
    return config;
  }

  public int layers() {
    return blocks.size();
  }

  public Parameter head() {
    return head;
  }

  /** Every weight by the name that files give it; vectors are single rows. */
  public Map<String, Tensor> tensors() {
    return parts(Parameter::value);
  }

  /** Every gradient of a trained model, named and shaped as {@link #tensors}. */
  public Map<String, Tensor> gradients() {
    return parts(Parameter::gradient);
  }

  /** Stacked weights taken apart again, by the names that files give the parts. */
  private Map<String, Tensor> parts(Function<Parameter, Tensor> of) {
    Map<String, Tensor> parts = new LinkedHashMap<>();
    for (WeightStack stack : stacks) {
      long row = 0;
      for (WeightStack.Part part : stack.parts()) {
        parts.put(part.tensor(), of.apply(weights.get(stack.name())).rows(row, part.rows()));
        row += part.rows();
      }
    }
    return parts;
  }

  /** Path prefix of a block, as the names of its layers begin. */
  public static String blockPath(int layer) {
    return LlamaLayout.blockPath(layer);
  }

  /**
   * The linear layers of a block, each with its number of inputs, in the order in which they are
   * stacked.
   */
  public Stream<LinearLayer> linearLayers(int layer) {
    DecoderBlock block = blocks.get(layer);
    return Stream.of(
            block.attention().qkv(),
            block.attention().out(),
            block.mlp().gateUp(),
            block.mlp().down())
        .map(l -> new LinearLayer(l.projections(), l.inputs()));
  }

  /** Projections that are computed as one product. */
  public record LinearLayer(List<Projection> projections, long inputs) {}

  /** The residual stream before block 0, {@code [tokens, hidden]}. */
  public Var embed(Tape tape, TokenBatch batch) {
    return Embedding.lookup(tape, batch.ids(), batch.tokens(), embedding, 1);
  }

  /** The residual stream after block {@code layer}. */
  public Var block(Tape tape, int layer, Var x, TokenBatch batch, Adapters adapters) {
    return blocks.get(layer).forward(tape, x, batch.seqLen(), adapters);
  }

  /** What the head reads. */
  public Var finalNorm(Tape tape, Var x) {
    return finalNorm.forward(tape, x);
  }
}
