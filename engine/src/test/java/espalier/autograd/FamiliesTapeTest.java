package espalier.autograd;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import espalier.device.Device;
import espalier.device.Transfer;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * What families beside Llama's are made of, on one tape: learned positions, LayerNorm, biases,
 * normalised heads, rotary positions for a part of a head or none, capped scores in a window, plain
 * activations, blocks whose two halves read the same input.
 */
class FamiliesTapeTest {

  private static final int SEQ = 7;
  private static final int TOKENS = 3 * SEQ;
  private static final int HIDDEN = 12;
  private static final int HEADS = 4;
  private static final int KV_HEADS = 2;
  private static final int HEAD_DIM = 6;
  private static final int ROTARY = 4;
  private static final int FFN = 10;
  private static final int VOCAB = 19;
  private static final int QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM;

  private static Device device;

  @BeforeAll
  static void open() {
    device = Device.open();
  }

  @AfterAll
  static void close() {
    device.close();
  }

  /** All parameters; those whose name begins with {@code prefix} are trained. */
  private static final class Network {
    final Random random = new Random(11);
    final Map<String, Parameter> parameters = new LinkedHashMap<>();
    final Tape tape = new Tape(device);
    final ParameterSet trained;
    final Var loss;

    Network(Activation.Kind activation, String prefix) {
      List<ParameterSet.Shape> shapes = shapes();
      trained =
          new ParameterSet(
              device, shapes.stream().filter(s -> s.name().startsWith(prefix)).toList());
      for (ParameterSet.Shape shape : shapes) {
        Parameter parameter =
            shape.name().startsWith(prefix)
                ? trained.get(shape.name())
                : Parameter.frozen(
                    shape.name(), Tensor.allocate(device, shape.rows(), shape.cols()));
        fill(parameter.value(), 0.4, shape.name().contains("gain") ? 1 : 0.1);
        parameters.put(shape.name(), parameter);
      }
      MemorySegment ids = device.allocate(TOKENS * Integer.BYTES);
      MemorySegment targets = device.allocate(TOKENS * Integer.BYTES);
      int[] id = new int[TOKENS];
      int[] target = new int[TOKENS];
      for (int t = 0; t < TOKENS; t++) {
        id[t] = random.nextInt(VOCAB);
        target[t] = random.nextInt(VOCAB);
      }
      Transfer.write(ids, id);
      Transfer.write(targets, target);
      Tensor cos = Tensor.allocate(device, SEQ, ROTARY / 2);
      Tensor sin = Tensor.allocate(device, SEQ, ROTARY / 2);
      fill(cos, 1, 0);
      fill(sin, 1, 0);
      Tensor head = Tensor.allocate(device, VOCAB, HIDDEN);
      fill(head, 0.5, 0);

      Var x = Embedding.lookup(tape, ids, TOKENS, parameters.get("embedding"), 1);
      x = Embedding.addPositions(tape, x, parameters.get("positions"), SEQ);
      x = block(x, "0.", activation, attention(cos, sin));
      x = block(x, "1.", activation, attention(null, null));
      Parameter frozenHead = Parameter.frozen("head", head);
      loss = LanguageModelHead.crossEntropy(tape, x, frozenHead, 0, targets, 1);
    }

    private static List<ParameterSet.Shape> shapes() {
      List<ParameterSet.Shape> shapes = new ArrayList<>();
      shapes.add(new ParameterSet.Shape("embedding", VOCAB, HIDDEN));
      shapes.add(new ParameterSet.Shape("positions", SEQ + 2, HIDDEN));
      for (String block : List.of("0.", "1.")) {
        for (String norm : List.of("attentionNorm", "mlpNorm")) {
          shapes.add(new ParameterSet.Shape(block + norm + ".gain", 1, HIDDEN));
          shapes.add(new ParameterSet.Shape(block + norm + ".bias", 1, HIDDEN));
        }
        shapes.add(new ParameterSet.Shape(block + "heads.gain.q", 1, HEAD_DIM));
        shapes.add(new ParameterSet.Shape(block + "heads.gain.k", 1, HEAD_DIM));
        linear(shapes, block + "qkv", QKV, HIDDEN);
        linear(shapes, block + "attentionOut", HIDDEN, HEADS * HEAD_DIM);
        linear(shapes, block + "up", FFN, HIDDEN);
        linear(shapes, block + "down", HIDDEN, FFN);
      }
      return shapes;
    }

    private static void linear(
        List<ParameterSet.Shape> shapes, String name, long outputs, long inputs) {
      shapes.add(new ParameterSet.Shape(name + ".weight", outputs, inputs));
      shapes.add(new ParameterSet.Shape(name + ".bias", 1, outputs));
    }

    private static CausalAttention attention(Tensor cos, Tensor sin) {
      return new CausalAttention(HEADS, KV_HEADS, HEAD_DIM, 0.5f, 2, 4, cos, sin);
    }

    private Var block(Var x, String block, Activation.Kind activation, CausalAttention attention) {
      Var attentionIn = layerNorm(x, block + "attentionNorm");
      Var mlpIn = layerNorm(x, block + "mlpNorm");
      Var qkv = linear(attentionIn, block + "qkv");
      Parameter query = parameters.get(block + "heads.gain.q");
      Parameter key = parameters.get(block + "heads.gain.k");
      Var normed = Normalization.heads(tape, qkv, query, key, 0.5f, 1e-5f, HEADS, KV_HEADS);
      Var attended = linear(attention.apply(tape, normed, SEQ), block + "attentionOut");
      Var hidden = Activation.apply(tape, linear(mlpIn, block + "up"), activation);
      Var transformed = linear(hidden, block + "down");
      return Elementwise.residual(tape, Elementwise.residual(tape, x, attended), transformed);
    }

    private Var layerNorm(Var x, String name) {
      Parameter gain = parameters.get(name + ".gain");
      return Normalization.layerNorm(tape, x, gain, parameters.get(name + ".bias"), 1e-5f);
    }

    private Var linear(Var x, String name) {
      Parameter weight = parameters.get(name + ".weight");
      Parameter bias = parameters.get(name + ".bias");
      return LinearMap.apply(tape, x, weight, bias, List.of(), MemorySegment.NULL);
    }

    private void fill(Tensor tensor, double spread, double mean) {
      for (long r = 0; r < tensor.rows(); r++) {
        for (long c = 0; c < tensor.cols(); c++) {
          tensor.set(r, c, (float) (random.nextGaussian() * spread + mean));
        }
      }
    }

    TrainedLoss training() {
      return new TrainedLoss(device, tape, trained, loss);
    }
  }

  /** Not RELU: a step across its bend is no slope. Its kernel test holds its gradient. */
  @ParameterizedTest
  @EnumSource(mode = EnumSource.Mode.EXCLUDE, names = "RELU")
  void gradientsAreTheSlopeOfTheLoss(Activation.Kind activation) {
    Network network = new Network(activation, "");
    network.tape.bind(device);
    network.training().assertGradientsAreSlopes(activation.name());
  }

  @Test
  void reusedMemoryGivesTheSameBitsAsMemoryOfOnesOwn() {
    Network planned = new Network(Activation.Kind.RELU, "");
    planned.tape.bind(device);
    Network separate = new Network(Activation.Kind.RELU, "");
    separate.tape.bindWithoutReuse(device);
    assertEquals(separate.training().loss(), planned.training().loss());
    float[] expected = separate.training().gradients();
    assertArrayEquals(expected, planned.training().gradients());
    assertArrayEquals(expected, planned.training().gradients(), "a second step repeats the first");
  }

  /** Whatever else is frozen, a parameter gets the same gradient. */
  @ParameterizedTest
  @ValueSource(
      strings = {
        "embedding",
        "positions",
        "0.attentionNorm",
        "0.heads",
        "0.qkv.weight",
        "0.qkv.bias",
        "0.up.bias",
        "1.mlpNorm",
        "1.attentionOut.bias",
        "1.down.bias"
      })
  void oneParameterAloneIsTrainedAsAmongAll(String name) {
    Network all = new Network(Activation.Kind.GELU_ERF, "");
    all.tape.bind(device);
    all.training().gradients();
    Network alone = new Network(Activation.Kind.GELU_ERF, name);
    alone.tape.bind(device);
    alone.training().gradients();
    for (Parameter parameter : alone.trained.parameters()) {
      float[] gradient = parameter.gradient().toArray();
      assertArrayEquals(
          all.trained.get(parameter.name()).gradient().toArray(), gradient, parameter.name());
    }
  }

  @Test
  void refusesToTrainHalfOfANorm() {
    for (String half : List.of("0.attentionNorm.bias", "1.mlpNorm.gain", "0.heads.gain.k")) {
      assertThrows(
          IllegalArgumentException.class, () -> new Network(Activation.Kind.RELU, half), half);
    }
  }

  @Test
  void refusesABiasOfAnotherLength() {
    Tape tape = new Tape(device);
    Var x = tape.constant(Tensor.allocate(device, TOKENS, HIDDEN));
    Parameter weight = Parameter.frozen("w", Tensor.allocate(device, FFN, HIDDEN));
    Parameter bias = Parameter.frozen("b", Tensor.allocate(device, 1, FFN + 1));
    assertThrows(
        IllegalArgumentException.class,
        () -> LinearMap.apply(tape, x, weight, bias, List.of(), MemorySegment.NULL));
  }
}
