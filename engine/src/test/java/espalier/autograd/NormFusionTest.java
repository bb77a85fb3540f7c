package espalier.autograd;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.device.Device;
import espalier.device.Transfer;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** What is fused, what is not because somebody reads it, and that no bit changes. */
class NormFusionTest {

  private static final int TOKENS = 21;
  private static final int HIDDEN = 12;
  private static final int VOCAB = 19;

  private static Device device;

  @BeforeAll
  static void open() {
    device = Device.open();
  }

  @AfterAll
  static void close() {
    device.close();
  }

  private enum Trained {
    EMBEDDING("embedding"),
    NORMS("norm"),
    LAST("norm4"), // whose input needs no gradient
    ALL("");

    private final String prefix;

    Trained(String prefix) {
      this.prefix = prefix;
    }
  }

  /** Two branches behind each other, each between two norms. */
  private static final class Network {
    final Random random = new Random(3);
    final Tape tape = new Tape(device);
    final ParameterSet trained;
    final List<Var> inputs = new ArrayList<>(); // of branches, normed
    final List<Var> branches = new ArrayList<>();
    final List<Var> sums = new ArrayList<>();
    private final boolean layerNorm;

    Network(Trained trained) {
      this(trained, false);
    }

    Network(Trained which, boolean layerNorm) {
      this.layerNorm = layerNorm;
      List<ParameterSet.Shape> shapes = new ArrayList<>();
      shapes.add(new ParameterSet.Shape("embedding", VOCAB, HIDDEN));
      for (int i = 0; i < 5; i++) {
        shapes.add(new ParameterSet.Shape("norm" + i, 1, HIDDEN));
        shapes.add(new ParameterSet.Shape("norm" + i + ".bias", 1, HIDDEN));
      }
      trained =
          new ParameterSet(
              device, shapes.stream().filter(s -> s.name().startsWith(which.prefix)).toList());
      for (int i = 0; i < trained.size(); i++) {
        trained.values().set(0, i, (float) (random.nextGaussian() * 0.3 + 0.7));
      }
      trained.round(device.kernels());
    }

    Var embedded() {
      int[] id = new int[TOKENS];
      for (int t = 0; t < TOKENS; t++) {
        id[t] = random.nextInt(VOCAB);
      }
      MemorySegment ids = device.allocate(TOKENS * Integer.BYTES);
      Transfer.write(ids, id);
      return Embedding.lookup(tape, ids, TOKENS, weight("embedding", VOCAB), 1);
    }

    /** The stream behind a branch with norms {@code number} and {@code number + 1}. */
    Var block(Var x, int number) {
      inputs.add(norm(x, number));
      branches.add(rmsNorm(linear(inputs.getLast()), number + 1));
      sums.add(Elementwise.residual(tape, x, branches.getLast()));
      return sums.getLast();
    }

    Var norm(Var x, int number) {
      return layerNorm
          ? Normalization.layerNorm(
              tape, x, weight("norm" + number, 1), weight("norm" + number + ".bias", 1), 1e-5f)
          : rmsNorm(x, number);
    }

    Var rmsNorm(Var x, int number) {
      return Normalization.rmsNorm(tape, x, weight("norm" + number, 1), 1, 1e-5f);
    }

    Var linear(Var x) {
      Parameter weight = Parameter.frozen("w", random(HIDDEN));
      return LinearMap.apply(tape, x, weight, null, List.of(), MemorySegment.NULL);
    }

    Parameter weight(String name, long rows) {
      return trained.parameters().stream()
          .filter(p -> p.name().equals(name))
          .findFirst()
          .orElseGet(() -> Parameter.frozen(name, random(rows)));
    }

    private Tensor random(long rows) {
      Tensor tensor = Tensor.allocate(device, rows, HIDDEN);
      for (long r = 0; r < rows; r++) {
        for (long c = 0; c < HIDDEN; c++) {
          tensor.set(r, c, (float) (random.nextGaussian() * 0.4 + 0.1));
        }
      }
      return tensor;
    }

    TrainedLoss loss(Var hidden) {
      int[] target = new int[TOKENS];
      for (int t = 0; t < TOKENS; t++) {
        target[t] = random.nextInt(VOCAB);
      }
      MemorySegment targets = device.allocate(TOKENS * Integer.BYTES);
      Transfer.write(targets, target);
      Parameter head = Parameter.frozen("head", random(VOCAB));
      Var losses = LanguageModelHead.crossEntropy(tape, hidden, head, 0, targets, 1);
      return new TrainedLoss(device, tape, trained, losses);
    }
  }

  /** A recording, made anew for each way to run it. */
  private interface Recording {
    TrainedLoss record(Network network);
  }

  private static Network sameBits(Trained trained, boolean layerNorm, Recording recording) {
    Network separate = new Network(trained, layerNorm);
    TrainedLoss expected = recording.record(separate);
    separate.tape.bindWithoutReuse(device);
    Network fused = new Network(trained, layerNorm);
    TrainedLoss actual = recording.record(fused);
    fused.tape.bind(device);
    assertEquals(expected.loss(), actual.loss());
    assertArrayEquals(expected.gradients(), actual.gradients());
    return fused;
  }

  private static TrainedLoss chain(Network network) {
    Var x = network.block(network.block(network.embedded(), 0), 2);
    return network.loss(network.norm(x, 4));
  }

  private static String producer(Var var) {
    return var.producer.name;
  }

  @ParameterizedTest
  @EnumSource
  void aNormedBranchItsSumAndTheNormOfThatAreOne(Trained trained) {
    Network network = sameBits(trained, false, NormFusionTest::chain);
    assertEquals("rmsNorm+residual+rmsNorm", producer(network.sums.getFirst()));
    String last = trained == Trained.LAST ? "rmsNorm+residual" : "rmsNorm+residual+rmsNorm";
    assertEquals(last, producer(network.sums.getLast()));
    assertEquals("rmsNorm", producer(network.inputs.getFirst()), "of no sum");
  }

  @Test
  void aLayerNormTakesTheSumAlone() {
    Network network = sameBits(Trained.ALL, true, NormFusionTest::chain);
    assertEquals("residual+layerNorm", producer(network.sums.getFirst()));
    assertEquals("rmsNorm", producer(network.branches.getFirst()));
  }

  @Test
  void aBranchThatSomebodyReadsStays() {
    Network network =
        sameBits(
            Trained.LAST,
            false,
            n -> {
              Var x = n.block(n.embedded(), 0);
              Var more = Elementwise.scale(n.tape, n.branches.getFirst(), 0.5f);
              return n.loss(n.norm(Elementwise.residual(n.tape, x, n.linear(more)), 4));
            });
    assertEquals("rmsNorm", producer(network.branches.getFirst()));
  }

  @Test
  void anOutputStays() {
    Network network =
        sameBits(
            Trained.ALL,
            false,
            n -> {
              Var x = n.block(n.embedded(), 0);
              n.tape.output(n.branches.getFirst());
              return n.loss(n.norm(x, 4));
            });
    assertEquals("rmsNorm", producer(network.branches.getFirst()));
    assertEquals("residual+rmsNorm", producer(network.sums.getFirst()));
  }

  @Test
  void aSumThatNobodyNormalisesTakesItsBranchAlone() {
    Network network =
        sameBits(
            Trained.ALL,
            false,
            n -> n.loss(Elementwise.scale(n.tape, n.block(n.embedded(), 0), 0.5f)));
    assertEquals("rmsNorm+residual", producer(network.sums.getFirst()));
  }

  /** As the blocks of two variants of a model, recorded layer by layer. */
  @Test
  void theFirstOfTwoNormsIsFusedWhereverItIsRecorded() {
    Network network =
        sameBits(
            Trained.ALL,
            false,
            n -> {
              Var x = n.block(n.embedded(), 0);
              Var other = Elementwise.scale(n.tape, n.embedded(), 0.5f);
              return twoNorms(n, x, other);
            });
    assertEquals("rmsNorm+residual+rmsNorm", producer(network.inputs.get(1)));
    assertEquals("rmsNorm", producer(network.inputs.get(2)));
  }

  @Test
  void gradientsAreAddedInTheOrderOfTheRecording() {
    Network network =
        sameBits(
            Trained.ALL,
            false,
            n -> {
              Var x = n.block(n.embedded(), 0);
              Var other = Elementwise.scale(n.tape, x, 0.5f);
              return twoNorms(n, x, other);
            });
    assertEquals("rmsNorm+residual", producer(network.sums.getFirst()));
    assertEquals("rmsNorm", producer(network.inputs.get(1)));
  }

  private static TrainedLoss twoNorms(Network n, Var x, Var other) {
    Var first = n.rmsNorm(x, 2);
    Var second = n.rmsNorm(x, 4);
    n.inputs.addAll(List.of(first, second));
    Var both = Elementwise.residual(n.tape, n.linear(first), n.linear(second));
    return n.loss(Elementwise.residual(n.tape, other, both));
  }
}
