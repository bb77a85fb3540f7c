package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.device.ElementType;
import espalier.device.Kernels;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * SAE kernels in bfloat16 against themselves in float32, on the same numbers, which both types
 * hold: arithmetic is float32's, so that activations differ by one rounding and everything else by
 * float32's errors alone. A plain computation in bfloat16 rounds its result, too, and more before.
 * Encoding is in {@link SaeEncodeTest}.
 */
class SaeBfloat16Test extends KernelTest {

  private static final int TOKENS = 40;
  private static final int M = 90;
  private static final int CAPACITY = 11;

  /** The largest relative error of one rounding to bfloat16. */
  private static final double ROUNDING = 0x1p-8;

  private final Random random = new Random(31);
  private final Lists lists = Lists.random(random, TOKENS, M, CAPACITY);

  /** What a run of kernels in one type has written. */
  private record Outputs(List<float[]> activations, List<double[]> others) {
    Outputs() {
      this(new ArrayList<>(), new ArrayList<>());
    }

    void floats(MemorySegment... buffers) {
      for (MemorySegment buffer : buffers) others.add(doubles(TestBuffers.toFloats(buffer)));
    }
  }

  private interface Run {
    void run(Kernels kernels, ElementType type, Outputs outputs);
  }

  private void assertRoundedOnce(Run run) {
    for (boolean aligned : new boolean[] {false, true}) {
      buffers.alignTo16(aligned);
      Outputs exact = new Outputs();
      Outputs rounded = new Outputs();
      Kernels bfloat16 = kernels(ElementType.BF16);
      run.run(kernels, ElementType.F32, exact);
      run.run(bfloat16, ElementType.BF16, rounded);
      for (int i = 0; i < exact.activations.size(); i++) {
        double[] expected = doubles(exact.activations.get(i));
        assertNear("activations " + i, expected, rounded.activations.get(i), ROUNDING);
      }
      for (int i = 0; i < exact.others.size(); i++) {
        double[] found = rounded.others.get(i);
        double[] expected = exact.others.get(i);
        double scale =
            Arrays.stream(expected).map(Math::abs).filter(Double::isFinite).max().orElse(0);
        assertEquals(expected.length, found.length);
        for (int j = 0; j < expected.length; j++) {
          assertEquals(expected[j], found[j], 1e-5 * scale, "output " + i + "[" + j + "]");
        }
      }
    }
  }

  private static void assertNear(String what, double[] expected, float[] found, double relative) {
    double scale = Arrays.stream(expected).map(Math::abs).max().orElse(0);
    assertTrue(scale > 0, what + " are all 0");
    assertNear(what, expected, found, i -> relative * Math.abs(expected[i]) + 1e-5 * scale);
  }

  private byte[] keep() {
    byte[] keep = new byte[TOKENS];
    keep[7] = 1;
    return keep;
  }

  /** Numbers that bfloat16 holds. */
  private float[] numbers(int count) {
    return random(ElementType.BF16, count, 1);
  }

  @ParameterizedTest
  @CsvSource({"33, false", "72, true", "72, false"})
  void gathers(int d, boolean accumulate) {
    float[] table = numbers(M * d);
    float[] bias = random(d);
    float[] rows = numbers(TOKENS * d);
    float[] before = numbers(TOKENS * d);
    assertRoundedOnce(
        (kernels, type, outputs) -> {
          MemorySegment index = buffers.input(lists.index());
          MemorySegment value = buffers.input(lists.value());
          MemorySegment count = buffers.input(lists.count());
          MemorySegment weights = buffers.input(type, table);
          MemorySegment x = buffers.input(type, rows);
          MemorySegment keep = buffers.input(keep());
          MemorySegment out = buffers.output(type, TOKENS * d);
          kernels.saeDecode(
              index, value, count, CAPACITY, weights, buffers.input(bias), keep, x, out, TOKENS, d);
          MemorySegment dX = buffers.changing(type, before);
          kernels.saeEncodeBackward(
              value, index, count, CAPACITY, weights, keep, x, dX, accumulate, TOKENS, d);
          outputs.activations.add(TestBuffers.toFloats(type, out));
          outputs.activations.add(TestBuffers.toFloats(type, dX));
          MemorySegment dValue = buffers.changing(new float[TOKENS * CAPACITY]);
          kernels.saeDecodeBackward(x, index, count, CAPACITY, weights, dValue, TOKENS, d);
          outputs.floats(dValue);
        });
  }

  @ParameterizedTest
  @CsvSource({"33, true", "72, true", "4200, false"})
  void weightGradients(int d, boolean centred) {
    float[] x = numbers(TOKENS * d);
    float[] dOut = numbers(TOKENS * d);
    float[] bPre = random(d);
    float[] before = random(M * d);
    float[] dPre = lists.values(random);
    assertRoundedOnce(
        (kernels, type, outputs) -> {
          MemorySegment offsets = buffers.ints(M + 1);
          MemorySegment byLatent = buffers.ints(TOKENS * CAPACITY);
          kernels.saeByLatent(
              buffers.input(lists.index()),
              buffers.input(lists.count()),
              CAPACITY,
              offsets,
              byLatent,
              TOKENS,
              M);
          MemorySegment dWEnc = buffers.changing(before);
          MemorySegment dBEnc = buffers.changing(new float[M]);
          MemorySegment dWDec = buffers.changing(before);
          kernels.saeWeightBackward(
              buffers.input(type, x),
              centred ? buffers.input(bPre) : NULL,
              buffers.input(type, dOut),
              buffers.input(lists.value()),
              buffers.input(dPre),
              offsets,
              byLatent,
              CAPACITY,
              dWEnc,
              dBEnc,
              dWDec,
              d,
              M);
          outputs.floats(dWEnc, dBEnc, dWDec);
        });
  }

  @ParameterizedTest
  @CsvSource({"33", "72"})
  void errorsAndStatistics(int d) {
    float[] x = numbers(TOKENS * d);
    float[] y = numbers(TOKENS * d);
    float[] before = numbers(TOKENS * d);
    float[] kl = random(TOKENS, 0.1);
    assertRoundedOnce(
        (kernels, type, outputs) -> {
          MemorySegment target = buffers.input(type, x);
          MemorySegment output = buffers.input(type, y);
          MemorySegment keep = buffers.input(keep());
          MemorySegment loss = buffers.floats(TOKENS);
          MemorySegment dY = buffers.output(type, TOKENS * d);
          kernels.saeMse(target, output, keep, loss, dY, 0.3f, TOKENS, d);
          outputs.floats(loss);
          outputs.activations.add(TestBuffers.toFloats(type, dY));
          MemorySegment added = buffers.changing(type, before);
          kernels.saeMseBackward(
              target, output, keep, loss, buffers.input(kl), 0.1f, added, true, 0.3f, TOKENS, d);
          outputs.activations.add(TestBuffers.toFloats(type, added));
          for (boolean accumulate : new boolean[] {false, true}) {
            MemorySegment unbalanced = buffers.changing(type, before);
            kernels.saeMseBackward(
                target, output, keep, NULL, NULL, 1, unbalanced, accumulate, 0.3f, TOKENS, d);
            outputs.activations.add(TestBuffers.toFloats(type, unbalanced));
          }
          MemorySegment stats = buffers.doubles(11 + d);
          MemorySegment fired = buffers.longs(M);
          Transfer.clear(stats);
          Transfer.clear(fired);
          kernels.saeStats(
              target,
              output,
              buffers.input(lists.index()),
              buffers.input(lists.value()),
              buffers.input(lists.count()),
              CAPACITY,
              keep,
              stats,
              fired,
              TOKENS,
              d,
              M);
          for (double sum : TestBuffers.toDoubles(stats)) outputs.others.add(new double[] {sum});
        });
  }

  @ParameterizedTest
  @CsvSource({"1, 33, false", "1, 72, true", "2, 33, true", "2, 72, false"})
  void normalisation(int kind, int d, boolean accumulate) {
    float[] x = numbers(TOKENS * d);
    float[] dOut = numbers(TOKENS * d);
    float[] before = numbers(TOKENS * d);
    float[] dMean = random(TOKENS);
    float[] dSpread = random(TOKENS);
    assertRoundedOnce(
        (kernels, type, outputs) -> {
          MemorySegment input = buffers.input(type, x);
          MemorySegment gradient = buffers.input(type, dOut);
          MemorySegment keep = buffers.input(keep());
          MemorySegment out = buffers.output(type, TOKENS * d);
          MemorySegment mean = buffers.floats(TOKENS);
          MemorySegment spread = buffers.floats(TOKENS);
          kernels.saeNormalize(input, kind, out, mean, spread, TOKENS, d);
          MemorySegment dX = buffers.changing(type, before);
          kernels.saeNormalizeBackward(
              input,
              mean,
              spread,
              kind,
              gradient,
              buffers.input(dMean),
              buffers.input(dSpread),
              keep,
              gradient,
              dX,
              accumulate,
              TOKENS,
              d);
          MemorySegment restored = buffers.output(type, TOKENS * d);
          kernels.saeRestore(input, mean, spread, gradient, keep, input, restored, TOKENS, d);
          MemorySegment scaled = buffers.output(type, TOKENS * d);
          kernels.saeRestore(input, mean, spread, NULL, NULL, NULL, scaled, TOKENS, d);
          MemorySegment dY = buffers.output(type, TOKENS * d);
          MemorySegment dSkip = buffers.output(type, TOKENS * d);
          MemorySegment toMean = buffers.floats(TOKENS);
          MemorySegment toSpread = buffers.floats(TOKENS);
          kernels.saeRestoreBackward(
              gradient, input, spread, keep, dY, dSkip, toMean, toSpread, TOKENS, d);
          for (MemorySegment buffer : new MemorySegment[] {out, dX, restored, scaled, dY, dSkip}) {
            outputs.activations.add(TestBuffers.toFloats(type, buffer));
          }
          outputs.floats(mean, spread, toMean, toSpread);
        });
  }
}
