package espalier.autograd;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import com.sun.management.ThreadMXBean;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/**
 * The tape as a whole: a two-block network with everything a real one has, at sizes that are no
 * round numbers.
 */
class TapeTest {

  private static final int SEQ = 7;
  private static final int TOKENS = 3 * SEQ;
  private static final int HIDDEN = 12;
  private static final int HEADS = 3;
  private static final int KV_HEADS = 1;
  private static final int HEAD_DIM = 4;
  private static final int FFN = 10;
  private static final int VOCAB = 19;
  private static final int RANK = 2;

  private static Device device;

  @BeforeAll
  static void open() {
    device = Device.open();
  }

  @AfterAll
  static void close() {
    device.close();
  }

  /** A network under training, with its tape recorded but not bound. */
  private static final class Network {
    final Random random = new Random(5);
    final ParameterSet trained;
    final MemorySegment ids = device.allocate(TOKENS * Integer.BYTES);
    final MemorySegment targets = device.allocate(TOKENS * Integer.BYTES);
    final MemorySegment seed = device.allocate(Long.BYTES);
    final Tape tape = new Tape(device);
    final Var loss;
    final List<WeightBlock> room = new ArrayList<>(); // around the weights of queries, keys, values
    final List<Var> normed = new ArrayList<>();
    int next;

    Network(float dropout, boolean trainWeights) {
      this(dropout, trainWeights, false);
    }

    /**
     * @param beside whether low-rank terms lie beside the weights, which are not trained then
     */
    Network(float dropout, boolean trainWeights, boolean beside) {
      int[] id = new int[TOKENS];
      int[] target = new int[TOKENS];
      for (int t = 0; t < TOKENS; t++) {
        id[t] = random.nextInt(VOCAB);
        target[t] = t % SEQ == SEQ - 1 ? -1 : random.nextInt(VOCAB);
      }
      Transfer.write(ids, id);
      Transfer.write(targets, target);
      Transfer.write(seed, MemorySegment.ofArray(new long[] {77}));
      List<ParameterSet.Shape> shapes = new ArrayList<>();
      if (trainWeights) {
        shapes.add(new ParameterSet.Shape("embedding", VOCAB, HIDDEN));
      }
      for (int block = 0; block < 2; block++) {
        if (trainWeights) {
          shapes.add(new ParameterSet.Shape("norm" + block, 1, HIDDEN));
          shapes.add(new ParameterSet.Shape("outNorm" + block, 1, HIDDEN));
          shapes.add(new ParameterSet.Shape("qkv" + block, qkvCols(), HIDDEN));
        }
        shapes.add(new ParameterSet.Shape("a.q" + block, RANK, HIDDEN));
        shapes.add(new ParameterSet.Shape("a.v" + block, RANK, HIDDEN));
        shapes.add(new ParameterSet.Shape("b.q" + block, HEADS * HEAD_DIM, RANK));
        shapes.add(new ParameterSet.Shape("b.v" + block, KV_HEADS * HEAD_DIM, RANK));
      }
      Map<String, Tensor> copies = new HashMap<>();
      for (int block = 0; block < 2 && beside; block++) {
        WeightBlock around = WeightBlock.allocate(device, qkvCols(), HIDDEN, 2 * RANK);
        room.add(around);
        copies.put("a.q" + block, around.a(0, RANK));
        copies.put("a.v" + block, around.a(RANK, RANK));
        copies.put("b.q" + block, around.b(0, HEADS * HEAD_DIM, 0, RANK));
        int value = (HEADS + KV_HEADS) * HEAD_DIM;
        copies.put("b.v" + block, around.b(value, KV_HEADS * HEAD_DIM, RANK, RANK));
      }
      trained = new ParameterSet(device, shapes, copies);
      for (int i = 0; i < trained.size(); i++) {
        trained.values().set(0, i, (float) (random.nextGaussian() * 0.4 + 0.1));
      }
      trained.round(device.kernels());
      Tensor cos = random(SEQ, HEAD_DIM / 2, 1, 0);
      Tensor sin = random(SEQ, HEAD_DIM / 2, 1, 0);
      CausalAttention attention =
          new CausalAttention(HEADS, KV_HEADS, HEAD_DIM, 0.5f, 0, 0, cos, sin);
      Var x = Embedding.lookup(tape, ids, TOKENS, weight("embedding", VOCAB, HIDDEN, 1), 1);
      for (int block = 0; block < 2; block++) {
        normed.add(
            Normalization.rmsNorm(tape, x, weight("norm" + block, 1, HIDDEN, 0.3), 0, 1e-5f));
        LowRank q = lowRank("q" + block, dropout);
        LowRank v = lowRank("v" + block, dropout);
        Var qkv =
            LinearMap.apply(
                tape,
                normed.getLast(),
                inRoom(block, weight("qkv" + block, qkvCols(), HIDDEN, 0.4)),
                null,
                List.of(
                    new LinearMap.Update(0, q),
                    new LinearMap.Update((HEADS + KV_HEADS) * HEAD_DIM, v)),
                seed);
        Var attended = attention.apply(tape, qkv, SEQ);
        Parameter gain = weight("outNorm" + block, 1, HIDDEN, 0.3);
        Var out = Normalization.rmsNorm(tape, plain(attended, HIDDEN), gain, 0, 1e-5f);
        x = Elementwise.residual(tape, x, out);
        Var gateUp = plain(x, 2 * FFN);
        Var hidden = GatedActivation.apply(tape, gateUp, GatedActivation.Kind.SILU);
        x = Elementwise.residual(tape, x, plain(hidden, HIDDEN));
      }
      x = Elementwise.scale(tape, x, 0.7f);
      loss =
          LanguageModelHead.crossEntropy(
              tape, x, Parameter.frozen("head", random(VOCAB, HIDDEN, 0.5, 0)), 0, targets, 1);
    }

    private Parameter inRoom(int block, Parameter weight) {
      if (room.isEmpty()) {
        return weight;
      }
      Tensor place = room.get(block).weight();
      place.copyFrom(weight.value().toArray());
      return Parameter.frozen(weight.name(), place);
    }

    private static int qkvCols() {
      return (HEADS + 2 * KV_HEADS) * HEAD_DIM;
    }

    private LowRank lowRank(String name, float dropout) {
      return new LowRank(trained.get("a." + name), trained.get("b." + name), 1.5f, dropout, next++);
    }

    private Var plain(Var x, long out) {
      Parameter weight = Parameter.frozen("w", random(out, x.cols(), 0.4, 0));
      return LinearMap.apply(tape, x, weight, null, List.of(), MemorySegment.NULL);
    }

    private Parameter weight(String name, long rows, long cols, double spread) {
      return trained.parameters().stream()
          .filter(p -> p.name().equals(name))
          .findFirst()
          .orElseGet(() -> Parameter.frozen(name, random(rows, cols, spread, 0.5)));
    }

    private Tensor random(long rows, long cols, double spread, double mean) {
      Tensor tensor = Tensor.allocate(device, rows, cols);
      for (long r = 0; r < rows; r++) {
        for (long c = 0; c < cols; c++) {
          tensor.set(r, c, (float) (random.nextGaussian() * spread + mean));
        }
      }
      return tensor;
    }

    TrainedLoss training() {
      return new TrainedLoss(device, tape, trained, loss);
    }

    double loss() {
      return training().loss();
    }

    float[] gradients() {
      return training().gradients();
    }
  }

  /** Fresh memory full of NaN, so that reading before writing shows. */
  private static MemorySegment poisoned(long bytes) {
    MemorySegment memory = device.allocate(bytes);
    Transfer.fill(memory, (byte) -1);
    return memory;
  }

  @Test
  void reusedMemoryGivesTheSameBitsAsMemoryOfOnesOwn() {
    for (boolean trainWeights : List.of(false, true)) {
      Network planned = new Network(0.25f, trainWeights);
      planned.tape.bind(poisoned(planned.tape.bytes()));
      Network separate = new Network(0.25f, trainWeights);
      separate.tape.bindWithoutReuse(device);
      assertTrue(
          planned.tape.bytes() < separate.tape.bytes() / 2,
          planned.tape.bytes() + " bytes of " + separate.tape.bytes());
      assertEquals(separate.loss(), planned.loss());
      float[] expected = separate.gradients();
      assertArrayEquals(expected, planned.gradients());
      assertArrayEquals(expected, planned.gradients(), "a second step repeats the first");
    }
  }

  /** The emulator runs all in order first, then what is beside it. */
  @Test
  void whatRunsBesideAndWhatRunsInOrderLeaveEachOtherAlone() {
    int steps = 10;
    Tape tape = new Tape(device);
    Tensor ones = Tensor.allocate(device, 4, 16);
    device.kernels().fill(ones.data(), 1, 64);
    Var both = Elementwise.scale(tape, tape.constant(ones), 3);
    Var inOrder = both;
    Var beside = both;
    for (int i = 0; i < steps; i++) {
      tape.beside(true);
      beside = Elementwise.scale(tape, beside, 2);
      tape.beside(false);
      inOrder = Elementwise.scale(tape, inOrder, 0.5f);
    }
    Var sum = tape.output(Elementwise.residual(tape, inOrder, beside));
    tape.bind(poisoned(tape.bytes()));
    float[] expected = new float[64];
    Arrays.fill(expected, 3 * (float) (Math.pow(0.5, steps) + Math.pow(2, steps)));
    for (int pass = 0; pass < 2; pass++) {
      tape.forward();
      assertArrayEquals(expected, sum.value().toArray());
    }
  }

  @Test
  void whatRunsBesideHasNoBackwardPass() {
    assumeTrue(device.worksBeside(), "the CPU runs all in order");
    Tape tape = new Tape(device);
    Var x = tape.value(4, 16, true);
    tape.op("given").writes(x).backward(List.of(), List.of(), k -> {});
    tape.beside(true);
    Elementwise.scale(tape, x, 2);
    assertThrows(IllegalStateException.class, tape::bytes);
  }

  @Test
  void whatRunsBesideIsNotReadMeanwhile() {
    assumeTrue(device.worksBeside(), "the CPU runs all in order");
    Tape tape = new Tape(device);
    Var x = tape.constant(Tensor.allocate(device, 4, 16));
    tape.beside(true);
    Var early = Elementwise.scale(tape, x, 2);
    tape.beside(false);
    Elementwise.scale(tape, early, 2);
    tape.bytes(); // all is done by then
    Tape crossed = new Tape(device);
    crossed.beside(true);
    Var first = Elementwise.scale(crossed, x, 2);
    crossed.beside(false);
    Elementwise.scale(crossed, first, 2);
    crossed.beside(true);
    Elementwise.scale(crossed, x, 2);
    assertThrows(IllegalStateException.class, crossed::bytes);
  }

  @Test
  void whatRunsBesideEndsWhereItIsRead() {
    assumeTrue(device.worksBeside(), "the CPU runs all in order");
    Tape tape = new Tape(device);
    Tensor ones = Tensor.allocate(device, 4, 16);
    device.kernels().fill(ones.data(), 1, 64);
    Var x = tape.constant(ones);
    Var before = Elementwise.scale(tape, x, 3);
    tape.beside(true);
    Var beside = Elementwise.scale(tape, x, 2);
    tape.beside(false);
    Var inOrder = before;
    for (int i = 0; i < 4; i++) { // whose memory must not be what `beside` lies in
      inOrder = Elementwise.scale(tape, inOrder, 0.5f);
    }
    Var sum = tape.output(Elementwise.residual(tape, inOrder, beside));
    tape.bind(poisoned(tape.bytes()));
    assertEquals(new Tape.Beside(1, 5), tape.beside);
    tape.forward();
    float[] expected = new float[64];
    Arrays.fill(expected, 3 / 16f + 2);
    assertArrayEquals(expected, sum.value().toArray());
  }

  @Test
  void gradientsAreTheSlopeOfTheLoss() {
    for (float dropout : new float[] {0, 0.25f}) {
      Network network = new Network(dropout, true);
      network.tape.bind(device);
      network.training().assertGradientsAreSlopes("dropout " + dropout);
    }
  }

  @Test
  void frozenWeightsKeepNothing() {
    Network lowRankOnly = new Network(0, false);
    Network everything = new Network(0, true);
    assertTrue(lowRankOnly.tape.bytes() <= everything.tape.bytes());
  }

  /** Masked copies of inputs are drawn again: what they take does not grow with the network. */
  @Test
  void maskedInputsAreNotKept() {
    assertEquals(takenByDropout(2), takenByDropout(6));
  }

  private static long takenByDropout(int maps) {
    return bytesOfMaps(maps, 0.25f) - bytesOfMaps(maps, 0);
  }

  private static long bytesOfMaps(int maps, float dropout) {
    ParameterSet set =
        new ParameterSet(
            device,
            List.of(
                new ParameterSet.Shape("a", RANK, HIDDEN),
                new ParameterSet.Shape("b", HIDDEN, RANK)));
    Tape tape = new Tape(device);
    Var x = tape.value(TOKENS, HIDDEN, true);
    tape.op("given").writes(x).backward(List.of(), List.of(), k -> {});
    Parameter weight = Parameter.frozen("w", Tensor.allocate(device, HIDDEN, HIDDEN));
    for (int i = 0; i < maps; i++) {
      LowRank update = new LowRank(set.get("a"), set.get("b"), 1, dropout, i);
      x =
          LinearMap.apply(
              tape,
              x,
              weight,
              null,
              List.of(new LinearMap.Update(0, update)),
              device.allocate(Long.BYTES));
    }
    return tape.bytes();
  }

  @Test
  void stackedAdaptersGiveWhatSeparateOnesGive() {
    Network stacked = new Network(0, false);
    stacked.tape.bind(device);
    // A dropout too small to hit anything goes through the separate products with equal inputs up
    // to 1 / (1 - p).
    Network separate = new Network(1e-9f, false);
    separate.tape.bind(device);
    assertEquals(stacked.loss(), separate.loss(), 1e-4);
    float[] expected = stacked.gradients();
    float largest = 0;
    for (float g : expected) {
      largest = Math.max(largest, Math.abs(g));
    }
    // Sums of about 20 terms in another order: a few roundings of the largest.
    assertArrayEquals(expected, separate.gradients(), 10 * Math.ulp(largest));
  }

  @Test
  void termsBesideTheWeightGiveWhatTermsApartGive() {
    for (float dropout : new float[] {0, 0.25f}) {
      Network apart = new Network(dropout, false);
      apart.tape.bind(device);
      Network beside = new Network(dropout, false, true);
      beside.tape.bind(poisoned(beside.tape.bytes()));
      for (Var x : beside.normed) {
        assertEquals(HIDDEN + 2 * RANK, x.value().stride());
        assertThrows(IllegalStateException.class, x::data);
      }
      double loss = apart.loss();
      // A few roundings of each token's loss.
      assertEquals(loss, beside.loss(), 4 * TOKENS * Math.ulp((float) loss / TOKENS));
      float[] expected = apart.gradients();
      float largest = 0;
      for (float g : expected) {
        largest = Math.max(largest, Math.abs(g));
      }
      // As above, and the scale is multiplied with x A^T: a rounding more.
      assertArrayEquals(expected, beside.gradients(), 10 * Math.ulp(largest));
      Network separate = new Network(dropout, false, true);
      separate.tape.bindWithoutReuse(device);
      assertEquals(separate.loss(), beside.loss());
      assertArrayEquals(separate.gradients(), beside.gradients());
    }
  }

  @Test
  void aWarmStepAllocatesNothing() {
    allocatesNothing(new Network(0.25f, true));
    allocatesNothing(new Network(0.25f, false, true));
  }

  private static void allocatesNothing(Network network) {
    network.tape.bind(device);
    for (int i = 0; i < 1000; i++) { // until the calls are compiled
      network.tape.forward();
      network.tape.backward();
    }
    long native0 = device.allocatedBytes();
    ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
    long heap0 = threads.getCurrentThreadAllocatedBytes();
    int steps = 200;
    for (int i = 0; i < steps; i++) {
      network.tape.forward();
      network.tape.backward();
    }
    long heap = threads.getCurrentThreadAllocatedBytes() - heap0;
    assertEquals(native0, device.allocatedBytes());
    assertTrue(heap / steps < 64, heap / steps + " bytes of heap a step");
  }

  @Test
  void sharedResidualGradientsAreChecked() {
    Tape tape = new Tape(device);
    ParameterSet set =
        new ParameterSet(
            device,
            List.of(
                new ParameterSet.Shape("t", VOCAB, HIDDEN),
                new ParameterSet.Shape("w", HIDDEN, HIDDEN)));
    MemorySegment ids = device.allocate(TOKENS * Integer.BYTES);
    Var x = Embedding.lookup(tape, ids, TOKENS, set.get("t"), 1);
    // The branch reads x itself, so its backward pass would add to the memory it reads from.
    Var branch = LinearMap.apply(tape, x, set.get("w"), null, List.of(), MemorySegment.NULL);
    Elementwise.residual(tape, x, branch);
    assertThrows(IllegalStateException.class, tape::bytes);
  }
}
