package espalier.model;

import espalier.autograd.Activation;
import espalier.autograd.CausalAttention;
import espalier.autograd.GatedActivation;
import espalier.autograd.Parameter;
import espalier.format.ModelConfig;
import espalier.format.ModelFamily;
import espalier.format.ModelFamily.TensorNames;
import espalier.model.WeightStack.Role;
import espalier.nn.Attention;
import espalier.nn.DecoderBlock;
import espalier.nn.FusedRows;
import espalier.nn.GatedMlp;
import espalier.nn.HeadNorms;
import espalier.nn.LayerNorm;
import espalier.nn.Linear;
import espalier.nn.Linear.Projection;
import espalier.nn.Mlp;
import espalier.nn.Norm;
import espalier.nn.PlainMlp;
import espalier.nn.RmsNorm;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;

/**
 * The names and shapes of a model's weights, and the blocks that are made of them, derived from
 * {@link ModelFamily} and {@link ModelConfig}.
 */
final class ModelLayout {

  private final ModelConfig config;
  private final ModelFamily family;
  private final TensorNames names;

  ModelLayout(ModelConfig config) {
    this.config = config;
    family = config.family();
    names = family.names();
  }

  String embedding() {
    return weight(names.embedding());
  }

  /** The table of learned positions; null if positions are not learned. */
  String positions() {
    return names.positions() == null ? null : weight(names.positions());
  }

  String head() {
    return weight(names.head());
  }

  /** All weights, in the order of the forward pass. */
  List<WeightStack> stacks() {
    long hidden = config.hiddenSize();
    List<WeightStack> stacks = new ArrayList<>();
    stacks.add(WeightStack.matrix(embedding(), config.vocabSize(), hidden));
    if (positions() != null) {
      stacks.add(WeightStack.matrix(positions(), config.maxPositionEmbeddings(), hidden));
    }
    for (int layer = 0; layer < config.numLayers(); layer++) {
      String path = names.blockPath(layer);
      norm(stacks, path, names.attentionNorm(), hidden);
      linear(stacks, queryKeyValue(path), hidden, Role.MATRIX, config.queryKeyValueBias());
      norm(stacks, path, names.queryNorm(), config.headDim());
      norm(stacks, path, names.keyNorm(), config.headDim());
      long heads = (long) config.numHeads() * config.headDim();
      linear(stacks, attentionOut(path), heads, Role.BACK, config.attentionOutBias());
      norm(stacks, path, names.attentionOutNorm(), hidden);
      norm(stacks, path, names.mlpNorm(), hidden);
      linear(stacks, mlpIn(path), hidden, Role.MATRIX, config.mlpBias());
      linear(stacks, mlpOut(path), config.intermediateSize(), Role.BACK, config.mlpBias());
      norm(stacks, path, names.mlpOutNorm(), hidden);
    }
    norm(stacks, "", names.finalNorm(), hidden);
    if (!config.tieWordEmbeddings()) {
      stacks.add(WeightStack.matrix(head(), config.vocabSize(), hidden));
    }
    return stacks;
  }

  /** The projections of a block that are computed as one, in the order of the forward pass. */
  List<List<Projection>> linearLayers(int layer) {
    String path = names.blockPath(layer);
    return List.of(queryKeyValue(path), attentionOut(path), mlpIn(path), mlpOut(path));
  }

  /** Block {@code layer}, whose weights are looked up by the names of their stacks. */
  DecoderBlock block(int layer, Function<String, Parameter> weights, RotaryTable rotary) {
    String path = names.blockPath(layer);
    Attention attention =
        new Attention(
            linear(queryKeyValue(path), weights, config.queryKeyValueBias()),
            headNorms(path, weights),
            attention(layer, weights, rotary),
            linear(attentionOut(path), weights, config.attentionOutBias()));
    return new DecoderBlock(
        norm(path, names.attentionNorm(), weights),
        attention,
        norm(path, names.attentionOutNorm(), weights),
        norm(path, names.mlpNorm(), weights),
        mlp(path, weights),
        norm(path, names.mlpOutNorm(), weights),
        config.parallelResidual());
  }

  private CausalAttention attention(
      int layer, Function<String, Parameter> weights, RotaryTable rotary) {
    return new CausalAttention(
        config.numHeads(),
        config.numKvHeads(),
        config.headDim(),
        (float) config.attentionScale(),
        (float) config.attentionSoftcap(),
        config.layers().get(layer).window(),
        rotary == null ? null : rotary.cos(),
        rotary == null ? null : rotary.sin());
  }

  /** The norms of heads; null if heads are not normalised. */
  private HeadNorms headNorms(String path, Function<String, Parameter> weights) {
    return names.queryNorm() == null
        ? null
        : new HeadNorms(
            weights.apply(weight(path + names.queryNorm())),
            weights.apply(weight(path + names.keyNorm())),
            family.norm() == ModelFamily.Norm.RMS_PLUS_ONE ? 1 : 0,
            (float) config.normEps());
  }

  private Mlp mlp(String path, Function<String, Parameter> weights) {
    Linear in = linear(mlpIn(path), weights, config.mlpBias());
    Linear out = linear(mlpOut(path), weights, config.mlpBias());
    String activation = config.activation().name();
    return names.mlpIn().size() == 2
        ? new GatedMlp(in, GatedActivation.Kind.valueOf(activation), out)
        : new PlainMlp(in, Activation.Kind.valueOf(activation), out);
  }

  Norm finalNorm(Function<String, Parameter> weights) {
    return norm("", names.finalNorm(), weights);
  }

  /** A norm; null if the family does not have it. */
  private Norm norm(String path, String name, Function<String, Parameter> weights) {
    if (name == null) {
      return null;
    }
    Parameter weight = weights.apply(weight(path + name));
    float eps = (float) config.normEps();
    return switch (family.norm()) {
      case RMS -> new RmsNorm(weight, 0, eps);
      case RMS_PLUS_ONE -> new RmsNorm(weight, 1, eps);
      case LAYER -> new LayerNorm(weight, weights.apply(bias(path + name)), eps);
    };
  }

  private void norm(List<WeightStack> stacks, String path, String name, long size) {
    if (name == null) {
      return;
    }
    // A gain that is added to one begins at zero, as a bias does.
    Role role = family.norm() == ModelFamily.Norm.RMS_PLUS_ONE ? Role.BIAS : Role.GAIN;
    stacks.add(WeightStack.vector(role, weight(path + name), size));
    if (family.norm() == ModelFamily.Norm.LAYER) {
      stacks.add(WeightStack.vector(Role.BIAS, bias(path + name), size));
    }
  }

  private List<Projection> queryKeyValue(String path) {
    long query = (long) config.numHeads() * config.headDim();
    long keyValue = (long) config.numKvHeads() * config.headDim();
    List<String> projections = names.queryKeyValue();
    if (projections.size() == 1) {
      FusedRows rows =
          family.fusesByHead() ? new FusedRows(config.numHeads(), config.headDim()) : null;
      return List.of(new Projection(path + projections.getFirst(), query + 2 * keyValue, rows));
    }
    return List.of(
        new Projection(path + projections.get(0), query),
        new Projection(path + projections.get(1), keyValue),
        new Projection(path + projections.get(2), keyValue));
  }

  private List<Projection> attentionOut(String path) {
    return List.of(new Projection(path + names.attentionOut(), config.hiddenSize()));
  }

  private List<Projection> mlpIn(String path) {
    return names.mlpIn().stream()
        .map(name -> new Projection(path + name, config.intermediateSize()))
        .toList();
  }

  private List<Projection> mlpOut(String path) {
    return List.of(new Projection(path + names.mlpOut(), config.hiddenSize()));
  }

  private void linear(
      List<WeightStack> stacks,
      List<Projection> projections,
      long inputs,
      Role role,
      boolean biased) {
    List<WeightStack.Part> weights = new ArrayList<>();
    List<WeightStack.Part> biases = new ArrayList<>();
    long outputs = 0;
    for (Projection p : projections) {
      weights.add(matrix(p, inputs));
      biases.add(new WeightStack.Part(bias(p.path()), 1, p.outputs(), byHead(p), p.outputs()));
      outputs += p.outputs();
    }
    stacks.add(new WeightStack(role, weights, outputs, inputs));
    if (biased) {
      stacks.add(new WeightStack(Role.BIAS, biases, 1, outputs));
    }
  }

  private WeightStack.Part matrix(Projection p, long inputs) {
    return family.storesTransposed()
        ? new WeightStack.Part(
            weight(p.path()),
            p.outputs(),
            inputs,
            new WeightStack.Transposed(),
            inputs,
            p.outputs())
        : new WeightStack.Part(
            weight(p.path()), p.outputs(), inputs, byHead(p), p.outputs(), inputs);
  }

  private static WeightStack.Stored byHead(Projection projection) {
    return projection.rows() == null ? null : new WeightStack.ByHead(projection.rows());
  }

  private static Linear linear(
      List<Projection> projections, Function<String, Parameter> weights, boolean biased) {
    String first = projections.getFirst().path();
    return new Linear(
        weights.apply(weight(first)), biased ? weights.apply(bias(first)) : null, projections);
  }

  private static String weight(String path) {
    return path + ".weight";
  }

  private static String bias(String path) {
    return path + ".bias";
  }
}
