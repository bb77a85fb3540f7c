package espalier.autograd;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import espalier.device.Device;
import espalier.device.Transfer;
import espalier.lora.OutputAdapter;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

/** Adapters at an SAE's output, and the error of a stream that goes on, between two maps. */
class OutputAdapterTest {

  private static final int TOKENS = 11;
  private static final int HIDDEN = 9;
  private static final int RANK = 3;
  private static final int VOCAB = 17;
  private static final int KEPT = 4;

  private final Device device = Device.openCpu();
  private final Random random = new Random(3);

  @AfterEach
  void close() {
    device.close();
  }

  private Tensor random(long rows, long cols, double spread) {
    float[] values = new float[Math.toIntExact(rows * cols)];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) (spread * random.nextGaussian());
    }
    Tensor tensor = Tensor.allocate(device, rows, cols);
    tensor.copyFrom(values);
    return tensor;
  }

  private MemorySegment keep() {
    byte[] flags = new byte[TOKENS];
    flags[KEPT] = 1;
    MemorySegment staging = device.allocateStaging(TOKENS);
    staging.copyFrom(MemorySegment.ofArray(flags));
    MemorySegment keep = device.allocate(TOKENS);
    Transfer.copy(staging, keep);
    return keep;
  }

  /** Tokens are embedded and mapped (both trained where asked), adapted, and lose. */
  private final class Network {
    final ParameterSet trained;
    final Tape tape = new Tape(device);
    final Var before;
    final Var after;
    final TrainedLoss loss;

    Network(OutputAdapter.Kind kind, boolean trainsBelow) {
      List<ParameterSet.Shape> shapes = new ArrayList<>();
      if (trainsBelow) {
        shapes.add(new ParameterSet.Shape("w", HIDDEN, HIDDEN));
      }
      shapes.addAll(OutputAdapter.shapes("", RANK, HIDDEN));
      trained = new ParameterSet(device, shapes);
      trained.values().copyFrom(random(1, trained.size(), 0.4).toArray());
      int[] ids = new int[TOKENS];
      int[] targets = new int[TOKENS];
      for (int t = 0; t < TOKENS; t++) {
        ids[t] = random.nextInt(VOCAB);
        targets[t] = random.nextInt(VOCAB);
      }
      MemorySegment idData = device.allocate((long) TOKENS * Integer.BYTES);
      Transfer.write(idData, ids);
      MemorySegment targetData = device.allocate((long) TOKENS * Integer.BYTES);
      Transfer.write(targetData, targets);
      Var x =
          Embedding.lookup(
              tape, idData, TOKENS, Parameter.frozen("e", random(VOCAB, HIDDEN, 1)), 1);
      Parameter w =
          trainsBelow ? trained.get("w") : Parameter.frozen("w", random(HIDDEN, HIDDEN, 0.4));
      before = tape.output(LinearMap.apply(tape, x, w, null, List.of(), MemorySegment.NULL));
      after = tape.output(OutputAdapter.of(trained, "", kind).apply(tape, before, keep()));
      Parameter head = Parameter.frozen("head", random(VOCAB, HIDDEN, 0.5));
      loss =
          new TrainedLoss(
              device,
              tape,
              trained,
              LanguageModelHead.crossEntropy(tape, after, head, 0, targetData, 1));
    }
  }

  @ParameterizedTest
  @CsvSource({"LINEAR, false", "LINEAR, true", "MLP, false", "MLP, true"})
  void gradientsAreTheSlopeOfTheLoss(OutputAdapter.Kind kind, boolean trainsBelow) {
    Network network = new Network(kind, trainsBelow);
    network.tape.bind(device);
    network.loss.assertGradientsAreSlopes(kind + " " + trainsBelow);
  }

  @ParameterizedTest
  @EnumSource(OutputAdapter.Kind.class)
  void keptPositionsPassUnchanged(OutputAdapter.Kind kind) {
    Network network = new Network(kind, true);
    network.tape.bind(device).forward();
    for (int t = 0; t < TOKENS; t++) {
      float[] in = network.before.value().rows(t, 1).toArray();
      float[] out = network.after.value().rows(t, 1).toArray();
      if (t == KEPT) {
        assertArrayEquals(in, out);
      } else {
        assertFalse(Arrays.equals(in, out));
      }
    }
  }

  /** An adapter that has learnt nothing changes nothing. */
  @Test
  void beginsAsTheIdentity() {
    Network network = new Network(OutputAdapter.Kind.MLP, false);
    OutputAdapter.of(network.trained, "", OutputAdapter.Kind.MLP)
        .initialise(new SplittableRandom(1));
    network.tape.bind(device).forward();
    assertArrayEquals(network.before.value().toArray(), network.after.value().toArray());
  }

  /** The stream's own loss joins that of what comes behind it, here a second error. */
  @Test
  void squaredErrorsJoinTheGradientFromBehind() {
    ParameterSet trained =
        new ParameterSet(device, List.of(new ParameterSet.Shape("w", HIDDEN, HIDDEN)));
    trained.values().copyFrom(random(1, trained.size(), 0.4).toArray());
    Tape tape = new Tape(device);
    Var x = tape.constant(random(TOKENS, HIDDEN, 1));
    Var y = LinearMap.apply(tape, x, trained.get("w"), null, List.of(), MemorySegment.NULL);
    Var first = SquaredError.of(tape, y, tape.constant(random(TOKENS, HIDDEN, 1)), 0.3f);
    Parameter next = Parameter.frozen("n", random(HIDDEN, HIDDEN, 0.4));
    Var z = LinearMap.apply(tape, y, next, null, List.of(), MemorySegment.NULL);
    Var second = SquaredError.of(tape, z, tape.constant(random(TOKENS, HIDDEN, 1)), 0.7f);
    Var both = tape.output(tape.value(1, TOKENS));
    tape.op("both")
        .reads(first, second)
        .writes(both)
        .forward(
            k -> {
              k.fill(both.data(), 0, TOKENS);
              k.axpy(0.3f, first.data(), both.data(), TOKENS);
              k.axpy(0.7f, second.data(), both.data(), TOKENS);
            });
    tape.bind(device);
    new TrainedLoss(device, tape, trained, both).assertGradientsAreSlopes("two errors");
  }
}
