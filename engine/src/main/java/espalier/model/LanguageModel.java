package espalier.model;

import espalier.autograd.Embedding;
import espalier.autograd.Parameter;
import espalier.autograd.ParameterSet;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.autograd.WeightBlock;
import espalier.device.Device;
import espalier.device.ElementType;
import espalier.distributed.NodeMemory;
import espalier.distributed.Ranks;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.format.RopeConfig;
import espalier.format.Safetensors;
import espalier.nn.Adapters;
import espalier.nn.DecoderBlock;
import espalier.nn.Linear.Projection;
import espalier.nn.Norm;
import espalier.nn.Taps;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.random.RandomGenerator;
import java.util.stream.Stream;

/**
 * A decoder-only transformer. It is recorded block by block, so that several streams of activations
 * (teacher and student) can share what they have in common.
 */
public final class LanguageModel {

  private static final String WEIGHTS = "the model's weights";

  /** In shared memory each weight begins at a multiple of so many bytes. */
  private static final long ALIGNMENT = 64;

  private final ModelConfig config;
  private final Parameter embedding;
  private final Parameter positions;
  private final List<DecoderBlock> blocks;
  private final Norm finalNorm;
  private final Parameter head;
  private final List<WeightStack> stacks;
  private final Map<String, Parameter> weights;
  private final Map<String, WeightBlock> room; // around weights, by their names
  private final Map<RopeConfig, RotaryTable> rotary;
  private Optional<NodeMemory> shared = Optional.empty(); // with other ranks

  private LanguageModel(
      ModelConfig config,
      List<WeightStack> stacks,
      Map<String, Parameter> weights,
      Map<String, WeightBlock> room,
      Map<RopeConfig, RotaryTable> rotary) {
    this.config = config;
    this.stacks = stacks;
    this.weights = weights;
    this.room = room;
    this.rotary = rotary;
    ModelLayout layout = new ModelLayout(config);
    embedding = weights.get(layout.embedding());
    positions = layout.positions() == null ? null : weights.get(layout.positions());
    blocks = new ArrayList<>();
    for (int layer = 0; layer < config.numLayers(); layer++) {
      RotaryTable table = rotary.get(config.layers().get(layer).rope());
      blocks.add(layout.block(layer, weights::get, table));
    }
    finalNorm = layout.finalNorm(weights::get);
    head = config.tieWordEmbeddings() ? embedding : weights.get(layout.head());
  }

  /** A frozen model from files. Each weight is converted on its way into device memory. */
  public static LanguageModel load(Device device, ModelFolder folder) {
    return load(device, folder, folder.config().maxPositionEmbeddings());
  }

  /**
   * As above, for sequences of at most {@code positions} tokens. For all positions that a
   * long-context model allows, the tables of rotary angles would take a few hundred MB.
   */
  public static LanguageModel load(Device device, ModelFolder folder, int positions) {
    return load(device, folder, positions, Map.of());
  }

  /**
   * As above, with room beside weights for one adapter if that makes the device faster: see {@link
   * WeightBlock}.
   *
   * @param ranks the ranks of the adapter's updates, by the path of the layer
   */
  public static LanguageModel load(
      Device device, ModelFolder folder, int positions, Map<String, Integer> ranks) {
    return allocate(device, folder.config(), positions, ranks).read(device, folder);
  }

  /** As above, for a job whose processes all hold the model: see {@link #allocate}. */
  public static LanguageModel load(
      Device device, ModelFolder folder, int positions, Ranks job, Consumer<String> warn) {
    return allocate(device, folder.config(), positions, Map.of(), job, warn).read(device, folder);
  }

  /**
   * A frozen model whose weights have memory but have not been {@link #read} yet. So whatever else
   * needs memory can be allocated before, and fails before minutes of reading.
   *
   * @param ranks as {@link #load} takes them
   */
  public static LanguageModel allocate(
      Device device, ModelConfig config, int positions, Map<String, Integer> ranks) {
    return allocate(device, config, positions, ranks, Optional.empty());
  }

  /**
   * As above, for a job whose processes all hold the model. The processes of one machine share one
   * copy of its weights if they can; then one of them {@linkplain #read reads} them for all.
   *
   * @param warn told if they cannot
   */
  public static LanguageModel allocate(
      Device device,
      ModelConfig config,
      int positions,
      Map<String, Integer> ranks,
      Ranks job,
      Consumer<String> warn) {
    if (!device.isHost()) {
      return allocate(device, config, positions, ranks);
    }
    long bytes =
        new ModelLayout(config).stacks().stream().mapToLong(s -> bytesInCommon(device, s)).sum();
    return allocate(device, config, positions, ranks, job.share(bytes, warn));
  }

  /** How many bytes a weight takes in shared memory. */
  private static long bytesInCommon(Device device, WeightStack stack) {
    long bytes = stack.rows() * stack.cols() * stack.type(device).bytes();
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }

  private static LanguageModel allocate(
      Device device,
      ModelConfig config,
      int positions,
      Map<String, Integer> ranks,
      Optional<NodeMemory> shared) {
    List<WeightStack> stacks = new ModelLayout(config).stacks();
    long bytes =
        stacks.stream()
            .mapToLong(
                s -> WeightBlock.bytes(s.type(device), s.rows(), s.cols(), rank(device, s, ranks)))
            .sum();
    device.require(WEIGHTS, bytes);
    device.holder(WEIGHTS);
    Map<String, Parameter> weights = new LinkedHashMap<>();
    Map<String, WeightBlock> room = new HashMap<>();
    long at = 0;
    for (WeightStack stack : stacks) {
      Tensor value;
      if (shared.isEmpty()) {
        value = allocate(device, stack, ranks, room);
      } else {
        MemorySegment own = shared.get().bytes().asSlice(at);
        value = Tensor.of(own, stack.rows(), stack.cols(), stack.type(device));
        at += bytesInCommon(device, stack);
      }
      weights.put(stack.name(), Parameter.frozen(stack.name(), value));
    }
    LanguageModel model =
        new LanguageModel(config, stacks, weights, room, rotary(device, config, positions));
    model.shared = shared;
    return model;
  }

  /** Reads the weights; each is converted on its way into device memory. */
  public LanguageModel read(Device device, ModelFolder folder) {
    if (shared.isEmpty() || shared.get().isWriter()) {
      device.holder(WEIGHTS);
      for (WeightStack stack : stacks) {
        stack.load(device, folder, weights.get(stack.name()).value());
      }
      folder.requireAllTaken();
    }
    shared.ifPresent(NodeMemory::settle);
    return this;
  }

  private static long rank(Device device, WeightStack stack, Map<String, Integer> ranks) {
    return device.joinsTerms() ? stack.rank(ranks) : 0;
  }

  private static Tensor allocate(
      Device device, WeightStack stack, Map<String, Integer> ranks, Map<String, WeightBlock> room) {
    long rank = rank(device, stack, ranks);
    if (rank == 0) {
      return Tensor.allocate(device, stack.rows(), stack.cols(), stack.type(device));
    }
    WeightBlock block = WeightBlock.allocate(device, stack.rows(), stack.cols(), rank);
    room.put(stack.name(), block);
    return block.weight();
  }

  /**
   * A frozen model with random weights that are made on the device, for measurements in which only
   * shapes matter. Matrices are uniform with standard deviation 0.02; projections back into the
   * residual stream are scaled by 1/sqrt(2 layers); norms and biases change nothing.
   *
   * @param ranks as {@link #load} takes them
   */
  public static LanguageModel random(
      Device device, ModelConfig config, int positions, long seed, Map<String, Integer> ranks) {
    List<WeightStack> stacks = new ModelLayout(config).stacks();
    Map<String, Parameter> weights = new LinkedHashMap<>();
    Map<String, WeightBlock> room = new HashMap<>();
    double bound = 0.02 * Math.sqrt(3); // of a uniform distribution with deviation 0.02
    double residual = 1 / Math.sqrt(2.0 * config.numLayers());
    for (WeightStack stack : stacks) {
      Tensor value = allocate(device, stack, ranks, room);
      long own = seed + weights.size();
      switch (stack.role()) {
        case MATRIX -> fillUniform(device, value, bound, own);
        case BACK -> fillUniform(device, value, bound * residual, own);
        case GAIN -> device.kernels().fill(value.data(), 1, value.size());
        case BIAS -> device.kernels().fill(value.data(), 0, value.size());
      }
      weights.put(stack.name(), Parameter.frozen(stack.name(), value));
    }
    return new LanguageModel(config, stacks, weights, room, rotary(device, config, positions));
  }

  private static void fillUniform(Device device, Tensor value, double bound, long seed) {
    device
        .kernels()
        .fillUniform(value.data(), value.stride(), (float) bound, seed, value.rows(), value.cols());
  }

  /** The tables of angles, one for all blocks that rotate alike. */
  private static Map<RopeConfig, RotaryTable> rotary(
      Device device, ModelConfig config, int positions) {
    Map<RopeConfig, RotaryTable> tables = new HashMap<>();
    for (ModelConfig.Layer layer : config.layers()) {
      if (layer.rope() != null) {
        tables.computeIfAbsent(
            layer.rope(), rope -> RotaryTable.of(device, rope, config.rotaryDim(), positions));
      }
    }
    return tables;
  }

  /** The parameters of a model that is to be trained. */
  public static ParameterSet parameters(Device device, ModelConfig config) {
    return new ParameterSet(
        device,
        new ModelLayout(config)
            .stacks().stream()
                .map(s -> new ParameterSet.Shape(s.name(), s.rows(), s.cols()))
                .toList());
  }

  /**
   * A model over trained parameters of {@link #parameters}, initialised like GPT-2: normal with
   * standard deviation 0.02, projections back into the residual stream scaled by 1/sqrt(2 layers),
   * gains 1, biases 0 (Radford et al. 2019, 2.3).
   */
  public static LanguageModel initialise(
      Device device, ModelConfig config, ParameterSet parameters, RandomGenerator random) {
    List<WeightStack> stacks = new ModelLayout(config).stacks();
    Map<String, Parameter> weights = new LinkedHashMap<>();
    double residual = 1 / Math.sqrt(2.0 * config.numLayers());
    for (WeightStack stack : stacks) {
      Parameter parameter = parameters.get(stack.name());
      float[] values = new float[Math.toIntExact(parameter.value().size())];
      for (int i = 0; i < values.length; i++) {
        values[i] =
            switch (stack.role()) {
              case MATRIX -> (float) (random.nextGaussian() * 0.02);
              case BACK -> (float) (random.nextGaussian() * 0.02 * residual);
              case GAIN -> 1;
              case BIAS -> 0;
            };
      }
      parameter.value().copyFrom(values);
      weights.put(stack.name(), parameter);
    }
    parameters.round(device.kernels());
    return new LanguageModel(
        config, stacks, weights, Map.of(), rotary(device, config, config.maxPositionEmbeddings()));
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
          Tensor start = weight.value().reshape(weight.rows(), weight.cols()); // no room in it
          device
              .kernels()
              .convert(
                  start.data(),
                  start.type().code(),
                  parameter.value().data(),
                  start.size(),
                  ElementType.F32);
          weights.put(name, parameter);
        });
    parameters.round(device.kernels());
    return new LanguageModel(from.config, from.stacks, weights, Map.of(), from.rotary);
  }

  /** The same model, for passes that do not train it. */
  public LanguageModel frozen() {
    Map<String, Parameter> frozen = new LinkedHashMap<>();
    weights.forEach((name, parameter) -> frozen.put(name, parameter.frozen()));
    return new LanguageModel(config, stacks, frozen, room, rotary);
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

  /** Every weight in the form that files have. */
  public List<Safetensors.Output> tensors() {
    return outputs(Parameter::value);
  }

  /** Every gradient of a trained model, with the names and shapes of {@link #tensors}. */
  public List<Safetensors.Output> gradients() {
    return outputs(Parameter::gradient);
  }

  private List<Safetensors.Output> outputs(Function<Parameter, Tensor> of) {
    return stacks.stream()
        .flatMap(stack -> stack.outputs(of.apply(weights.get(stack.name()))).stream())
        .toList();
  }

  /** The path of a block, with which the names of its layers begin. */
  public String blockPath(int layer) {
    return config.family().names().blockPath(layer);
  }

  /**
   * The linear layers of a block, each with its number of inputs, in the order in which they are
   * stacked.
   */
  public Stream<LinearLayer> linearLayers(int layer) {
    DecoderBlock block = blocks.get(layer);
    return Stream.of(
            block.attention().qkv(), block.attention().out(), block.mlp().in(), block.mlp().out())
        .map(l -> new LinearLayer(l.projections(), l.inputs(), room.get(l.weight().name())));
  }

  /** The paths of a block's linear layers, in the same order. */
  public static Stream<String> linearPaths(ModelConfig config, int layer) {
    return new ModelLayout(config)
        .linearLayers(layer).stream().flatMap(List::stream).map(Projection::path);
  }

  /**
   * Projections that are computed as one product.
   *
   * @param room around their weight; null if there is none
   */
  public record LinearLayer(List<Projection> projections, long inputs, WeightBlock room) {}

  /** The residual stream before block 0, {@code [tokens, hidden]}. */
  public Var embed(Tape tape, TokenBatch batch) {
    float scale = config.family().scalesEmbeddings() ? (float) Math.sqrt(config.hiddenSize()) : 1;
    Var tokens = Embedding.lookup(tape, batch.ids(), batch.tokens(), embedding, scale);
    return positions == null
        ? tokens
        : Embedding.addPositions(tape, tokens, positions, batch.seqLen());
  }

  /** The residual stream after block {@code layer}. */
  public Var block(Tape tape, int layer, Var x, TokenBatch batch, Adapters adapters) {
    return block(tape, layer, x, batch, adapters, Taps.NONE);
  }

  /** The same, with activations inside the block replaced. */
  public Var block(Tape tape, int layer, Var x, TokenBatch batch, Adapters adapters, Taps taps) {
    return blocks.get(layer).forward(tape, x, batch.seqLen(), adapters, taps);
  }

  /** The final norm of the residual stream, {@code [tokens, hidden]}, which the head reads. */
  public Var finalNorm(Tape tape, Var x) {
    return finalNorm.forward(tape, x);
  }

  /** The cap of the logits; 0 for none. */
  public float finalSoftcap() {
    return (float) config.finalSoftcap();
  }

  /**
   * Computes the logits of a few tokens, for callers that need logits themselves; losses fuse the
   * head instead.
   *
   * @param hidden {@code [tokens, hidden]}, as {@link #finalNorm} gives it
   * @param logits {@code [tokens, vocab]}, overwritten
   */
  public void logits(Device device, Tensor hidden, Tensor logits) {
    device
        .kernels()
        .gemm(
            false,
            true,
            hidden.rows(),
            logits.cols(),
            hidden.cols(),
            1,
            hidden.data(),
            hidden.stride(),
            head.matrix().data(),
            hidden.cols(),
            0,
            logits.data(),
            logits.stride(),
            logits.type());
    double cap = config.finalSoftcap();
    if (cap > 0) {
      float[] values = logits.toArray();
      for (int i = 0; i < values.length; i++) {
        values[i] = (float) (cap * Math.tanh(values[i] / cap));
      }
      logits.copyFrom(values);
    }
  }
}
