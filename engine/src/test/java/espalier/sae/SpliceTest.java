package espalier.sae;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.autograd.Parameter;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.format.SaeSite;
import espalier.format.SaeWeights.Activation;
import espalier.format.SaeWeights.Normalisation;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The whole operation against dense float64, and its gradient against differences of that. */
class SpliceTest {

  private static final int TOKENS = 5;
  private static final int KEPT = 2;

  private final Device device = Device.open();
  private final Random random = new Random(11);

  @AfterEach
  void close() {
    device.close();
  }

  private Parameter random(String name, long rows, long cols, double deviation) {
    Tensor tensor = Tensor.allocate(device, rows, cols);
    for (long r = 0; r < rows; r++) {
      for (long c = 0; c < cols; c++) {
        tensor.set(r, c, (float) (deviation * random.nextGaussian() + 0.1));
      }
    }
    return Parameter.frozen(name, tensor);
  }

  private Sae sae(
      Activation activation,
      int k,
      int dIn,
      int dOut,
      int m,
      boolean skips,
      Normalisation normalisation,
      boolean restores) {
    Parameter threshold = random("threshold", 1, m, 0.1);
    for (int i = 0; i < m; i++) {
      threshold.value().set(0, i, Math.abs(threshold.value().get(0, i)));
    }
    return new Sae(
        SaeSite.Kind.RESIDUAL,
        activation,
        k,
        random("W_enc", m, dIn, 0.5),
        random("b_enc", 1, m, 0.3),
        random("b_pre", 1, dIn, 0.3),
        random("W_dec", m, dOut, 0.5),
        random("b_dec", 1, dOut, 0.3),
        activation == Activation.JUMPRELU ? threshold : null,
        skips ? random("W_skip", dOut, dIn, 0.3) : null,
        normalisation,
        restores);
  }

  /**
   * An SAE and its parameters on the host, which the reference reads hundreds of thousands of
   * times.
   */
  private record Numbers(
      Sae sae,
      float[] wEnc,
      float[] bEnc,
      float[] bPre,
      float[] wDec,
      float[] bDec,
      float[] threshold,
      float[] skip) {

    Numbers(Sae sae) {
      this(
          sae,
          read(sae.wEnc()),
          read(sae.bEnc()),
          read(sae.bPre()),
          read(sae.wDec()),
          read(sae.bDec()),
          read(sae.threshold()),
          read(sae.skip()));
    }

    private static float[] read(Parameter parameter) {
      return parameter == null ? null : parameter.value().toArray();
    }
  }

  /** What one token becomes, as {@link espalier.format.SaeWeights} says it. */
  private static double[] reference(Numbers numbers, double[] x) {
    Sae sae = numbers.sae;
    int dIn = (int) sae.inputs();
    int dOut = (int) sae.outputs();
    int m = (int) sae.latents();
    boolean centred = sae.normalisation() == Normalisation.LAYER_NORM;
    boolean normalised = sae.normalisation() != Normalisation.NONE;
    double mean = 0;
    for (int c = 0; centred && c < dIn; c++) {
      mean += x[c] / dIn;
    }
    double squares = 0;
    for (double value : x) {
      squares += (value - mean) * (value - mean);
    }
    double spread = Math.sqrt(squares / (centred ? dIn - 1 : dIn));
    double divisor = normalised ? spread + (centred ? 1e-5 : 0) : 1;
    double[] z = new double[m];
    for (int i = 0; i < m; i++) {
      z[i] = numbers.bEnc[i];
      for (int c = 0; c < dIn; c++) {
        double input = (x[c] - mean) / divisor - numbers.bPre[c];
        z[i] += numbers.wEnc[i * dIn + c] * input;
      }
    }
    double[] y = new double[dOut];
    for (int o = 0; o < dOut; o++) {
      y[o] = numbers.bDec[o];
      for (int i = 0; i < m; i++) {
        y[o] += active(numbers, z, i) ? z[i] * numbers.wDec[i * dOut + o] : 0;
      }
      if (sae.restoresScale()) {
        y[o] = y[o] * spread + mean;
      }
      for (int c = 0; sae.skip() != null && c < dIn; c++) {
        y[o] += numbers.skip[o * dIn + c] * x[c];
      }
    }
    return y;
  }

  private static boolean active(Numbers numbers, double[] z, int i) {
    Sae sae = numbers.sae;
    int size = sae.k() == 0 ? 0 : z.length / sae.k();
    int larger = 0;
    boolean largestOfGroup = true;
    for (int j = 0; j < z.length; j++) {
      larger += z[j] > z[i] ? 1 : 0;
      largestOfGroup &= size == 0 || j / size != i / size || z[j] <= z[i];
    }
    return z[i] > 0
        && switch (sae.activation()) {
          case RELU -> true;
          case JUMPRELU -> z[i] > numbers.threshold[i];
          case TOPK -> larger < sae.k();
          case GROUPMAX -> largestOfGroup;
        };
  }

  /** sum of weight * y, and x itself at the kept position. */
  private static double loss(Numbers numbers, double[] x, float[] weight, boolean keeps) {
    int dIn = (int) numbers.sae.inputs();
    int dOut = (int) numbers.sae.outputs();
    double loss = 0;
    for (int t = 0; t < TOKENS; t++) {
      double[] row = Arrays.copyOfRange(x, t * dIn, (t + 1) * dIn);
      double[] y = keeps && t == KEPT ? row : reference(numbers, row);
      for (int o = 0; o < dOut; o++) {
        loss += weight[t * dOut + o] * y[o];
      }
    }
    return loss;
  }

  @ParameterizedTest
  @CsvSource({
    "RELU, 0, 7, 7, 20, false, NONE, false",
    "JUMPRELU, 0, 7, 7, 300, false, NONE, false",
    "TOPK, 4, 7, 7, 20, true, NONE, false",
    "GROUPMAX, 4, 7, 7, 20, false, NONE, false",
    "TOPK, 4, 7, 5, 20, true, NONE, false",
    "JUMPRELU, 0, 5, 9, 20, false, LAYER_NORM, false",
    "RELU, 0, 7, 7, 20, false, CONSTANT_NORM, true",
    "JUMPRELU, 0, 7, 7, 20, true, LAYER_NORM, true",
    "GROUPMAX, 5, 7, 7, 20, true, CONSTANT_NORM, true",
    "TOPK, 3, 9, 6, 20, false, CONSTANT_NORM, false",
  })
  void computesWhatTheRecordSays(
      Activation activation,
      int k,
      int dIn,
      int dOut,
      int m,
      boolean skips,
      Normalisation normalisation,
      boolean restores) {
    Sae sae = sae(activation, k, dIn, dOut, m, skips, normalisation, restores);
    Numbers numbers = new Numbers(sae);
    boolean keeps = dIn == dOut;
    MemorySegment keep = MemorySegment.NULL;
    if (keeps) {
      keep = device.allocate(TOKENS);
      Transfer.write(keep, new byte[] {0, 0, 1, 0, 0});
    }
    float[] x = random("x", TOKENS, dIn, 3).value().toArray();
    float[] weight = random("weight", TOKENS, dOut, 1).value().toArray();

    Tape tape = new Tape(device);
    Var in = tape.output(tape.value(TOKENS, dIn, true));
    tape.op("input")
        .writes(in)
        .forward(tick -> in.value().copyFrom(x))
        .backward(List.of(), List.of(), tick -> {});
    Splice splice = Splice.into(tape, in, sae, keep);
    Var out = tape.output(splice.output());
    tape.op("loss")
        .reads(out)
        .givesInForward(out)
        .forward(
            tick -> {
              out.accumulates();
              out.gradient().copyFrom(weight);
            });
    tape.bind(device).forward();

    float[] y = out.value().toArray();
    for (int t = 0; t < TOKENS; t++) {
      double[] row = new double[dIn];
      for (int c = 0; c < dIn; c++) {
        row[c] = x[t * dIn + c];
      }
      double[] expected = keeps && t == KEPT ? row : reference(numbers, row);
      for (int o = 0; o < dOut; o++) {
        // 20 terms and more of size 10: a few dozen roundings
        assertEquals(expected[o], y[t * dOut + o], 1e-4, "y of token " + t);
      }
    }
    tape.backward();
    double[] at = new double[x.length];
    for (int i = 0; i < x.length; i++) {
      at[i] = x[i];
    }
    double step = 1e-6;
    float[] gradient = in.gradient().toArray();
    for (int i = 0; i < x.length; i++) {
      at[i] = x[i] + step;
      double above = loss(numbers, at, weight, keeps);
      at[i] = x[i] - step;
      double below = loss(numbers, at, weight, keeps);
      at[i] = x[i];
      double expected = (above - below) / (2 * step);
      assertEquals(expected, gradient[i], 2e-4 * (1 + Math.abs(expected)), "d_x of element " + i);
    }
  }

  /** Far more active latents than lists begin with; the second batch needs still more. */
  @Test
  void listsGrow() {
    int m = 3000;
    Sae sae = sae(Activation.JUMPRELU, 0, 6, 6, m, false, Normalisation.NONE, false);
    float[][] batches = {new float[TOKENS * 6], random("x", TOKENS, 6, 3).value().toArray()};
    Tensor x = Tensor.allocate(device, TOKENS, 6);
    for (int c = 0; c < 6; c++) { // the threshold is above the bias for most
      for (int t = 0; t < TOKENS; t++) {
        batches[0][t * 6 + c] = sae.bPre().value().get(0, c);
      }
    }
    Tape tape = new Tape(device);
    Splice splice = Splice.into(tape, tape.constant(x), sae, MemorySegment.NULL);
    SaeStatistics statistics = new SaeStatistics(device, sae);
    statistics.record(tape, splice);
    tape.bind(device);
    assertEquals(256, splice.latents().capacity());
    Numbers numbers = new Numbers(sae);
    long listed = 0;
    for (float[] batch : batches) {
      x.copyFrom(batch);
      tape.forward();
      statistics.addBatch();
      for (int t = 0; t < TOKENS; t++) {
        int expected = 0;
        for (int i = 0; i < m; i++) {
          double z = numbers.bEnc[i];
          for (int c = 0; c < 6; c++) {
            z += numbers.wEnc[i * 6 + c] * ((double) batch[t * 6 + c] - numbers.bPre[c]);
          }
          expected += z > Math.max(0, numbers.threshold[i]) ? 1 : 0;
        }
        assertTrue(expected > 256, "the test needs long lists: " + expected);
        assertEquals(expected, splice.latents().read().count()[t]);
        listed += expected;
      }
    }
    assertTrue(splice.latents().capacity() < m, "not for the worst case");
    // Each batch is counted once, however often it is encoded.
    assertEquals(2L * TOKENS, statistics.summary().tokens());
    assertEquals((double) listed / (2 * TOKENS), statistics.summary().l0(), 1e-12);
    long capacity = splice.latents().capacity();
    tape.forward();
    assertEquals(capacity, splice.latents().capacity());
  }

  /** A vector of zeros has no norm to be changed: NaN, as in SAELens, but not where it is kept. */
  @Test
  void zerosHaveNoConstantNorm() {
    Sae sae = sae(Activation.TOPK, 3, 4, 4, 12, false, Normalisation.CONSTANT_NORM, true);
    MemorySegment keep = device.allocate(2);
    Transfer.write(keep, new byte[] {0, 1});
    Tensor x = Tensor.allocate(device, 2, 4);
    x.copyFrom(new float[8]);
    Tape tape = new Tape(device);
    Var out = tape.output(Splice.into(tape, tape.constant(x), sae, keep).output());
    tape.bind(device).forward();
    for (int c = 0; c < 4; c++) {
      assertTrue(Float.isNaN(out.value().get(0, c)));
    }
    assertArrayEquals(new float[4], out.value().rows(1, 1).toArray());
  }

  @Test
  void nothingPassesATranscoder() {
    Sae sae = sae(Activation.RELU, 0, 4, 6, 12, false, Normalisation.NONE, false);
    Tape tape = new Tape(device);
    Var x = tape.constant(Tensor.allocate(device, 2, 4));
    MemorySegment keep = device.allocate(2);
    assertThrows(IllegalArgumentException.class, () -> Splice.into(tape, x, sae, keep));
  }

  /** What steering adds is in the units of the output. */
  @Test
  void steeringFollowsTheScaleOfTheInput() {
    for (Normalisation normalisation : Normalisation.values()) {
      boolean normalised = normalisation != Normalisation.NONE;
      Sae sae = sae(Activation.RELU, 0, 5, 5, 12, false, normalisation, normalised);
      MemorySegment keep = device.allocate(2);
      Transfer.write(keep, new byte[] {0, 1});
      Tensor x = random("x", 2, 5, 9).value();
      Tape tape = new Tape(device);
      Splice splice = Splice.into(tape, tape.constant(x), sae, keep);
      Var plain = tape.output(splice.output());
      Var steered = tape.output(SteeredLatents.hold(tape, splice, plain, 3, 7));
      Var none = tape.output(SteeredLatents.hold(tape, splice, steered, 3, 7));
      tape.bind(device).forward();
      double now = splice.latents().read().dense(0)[3];
      double[] row = new double[5];
      double mean = 0;
      for (int c = 0; c < 5; c++) {
        row[c] = x.get(0, c);
        mean += normalisation == Normalisation.LAYER_NORM ? row[c] / 5 : 0;
      }
      double squares = 0;
      for (double value : row) {
        squares += (value - mean) * (value - mean);
      }
      double scale =
          normalised ? Math.sqrt(squares / (normalisation == Normalisation.LAYER_NORM ? 4 : 5)) : 1;
      for (int c = 0; c < 5; c++) {
        double change = scale * (7 - now) * sae.wDec().value().get(3, c);
        double expected = plain.value().get(0, c) + change;
        assertEquals(expected, steered.value().get(0, c), 1e-4 * (1 + Math.abs(change)));
        double twice = steered.value().get(0, c) + change; // the current value is the encoder's
        assertEquals(twice, none.value().get(0, c), 1e-4 * (1 + Math.abs(change)));
      }
      assertArrayEquals(x.rows(1, 1).toArray(), steered.value().rows(1, 1).toArray());
    }
  }
}
