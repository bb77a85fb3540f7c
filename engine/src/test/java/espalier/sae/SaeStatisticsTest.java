package espalier.sae;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.Set;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** The formulas, on numbers small enough to be worked out by hand. */
class SaeStatisticsTest {

  private final Device device = Device.open();
  private SaeStatistics statistics;

  @AfterEach
  void close() {
    device.close();
  }

  /** Four positions of width 2, the second kept; latents 0 to 3. */
  private SaeStatistics.Summary measure(float[] x, float[] y, int times) {
    Tape tape = new Tape(device);
    int[] index = {0, 2, 0, 1, 0, 3, 0, 0};
    float[] value = {1, 2, 9, 9, 3, 0, 5, 0}; // latent 3 is listed, but not active
    Latents latents = lists(4, 4, index, value, 2, 2, 2, 1);
    MemorySegment keep = device.allocate(4);
    Transfer.write(keep, new byte[] {0, 1, 0, 0});
    Splice splice =
        new Splice(null, floats(tape, 4, 2, x), floats(tape, 4, 2, y), latents, keep, null);
    statistics = new SaeStatistics(device, 2, 4);
    statistics.record(tape, splice);
    tape.bind(device);
    for (int i = 0; i < times; i++) {
      tape.forward();
      statistics.addBatch();
    }
    return statistics.summary();
  }

  private Var floats(Tape tape, int rows, int cols, float... values) {
    Tensor tensor = Tensor.allocate(device, rows, cols);
    tensor.copyFrom(values);
    return tape.constant(tensor);
  }

  private Latents lists(int tokens, int m, int[] index, float[] value, int... count) {
    Latents latents = new Latents(device, tokens, m, value.length / tokens, Set.of());
    Transfer.write(latents.index(), index);
    Transfer.write(latents.value(), value);
    Transfer.write(latents.count(), count);
    return latents;
  }

  @Test
  void everyFormula() {
    // x: (3, 4), (kept), (0, 0), (0, 2); y: (3, 0), (kept), (0, 1), (2, 2)
    float[] x = {3, 4, 70, 70, 0, 0, 0, 2};
    float[] y = {3, 0, -7, -7, 0, 1, 2, 2};
    for (int times : new int[] {1, 3}) { // sums over batches of the same mean
      SaeStatistics.Summary s = measure(x, y, times);
      assertEquals(3L * times, s.tokens());
      assertEquals((16 + 1 + 4) / 3.0, s.mse(), 1e-15);
      // E|x|^2 = 29/3, E x = (1, 2): the variance is 29/3 - 5 = 14/3
      assertEquals(21 / 14.0, s.fvu(), 1e-15);
      assertEquals(1 - 21 / 14.0, s.explainedVariance(), 1e-15);
      assertEquals((0.6 + 0 + Math.sqrt(0.5)) / 3, s.cosine(), 1e-15);
      assertEquals(7 / 3.0, s.l2In(), 1e-15);
      assertEquals((3 + 1 + Math.sqrt(8)) / 3, s.l2Out(), 1e-15);
      assertEquals((0.6 + 1 + Math.sqrt(2)) / 3, s.l2Ratio(), 1e-15); // 1 where x is 0
      assertEquals((9 + 1 + 8) / (double) (9 + 0 + 4), s.relativeReconstructionBias(), 1e-15);
      assertEquals(4 / 3.0, s.l0(), 1e-15); // 2 + 1 + 1 active entries
      assertEquals((1 + 2 + 3 + 5) / 3.0, s.l1(), 1e-15);
      assertArrayEquals(new long[] {3L * times, 0, times, 0}, statistics.firings());
      assertEquals(0.5, s.density().alive());
      assertEquals(0.5, s.dead());
      assertEquals(0.5, s.density().over1Percent());
      assertEquals(0.5, s.density().over10Percent());
      assertEquals(1, s.density().normalizedOver1Percent());
    }
  }

  /** The rounding errors of a variance of 0 would be divided by. */
  @Test
  void withoutVarianceThereIsNoShareOfIt() {
    float[] same = {0.1f, 0.3f, 70, 70, 0.1f, 0.3f, 0.1f, 0.3f};
    SaeStatistics.Summary s = measure(same, new float[8], 1);
    assertEquals(Double.NaN, s.fvu());
    assertEquals(Double.NaN, s.explainedVariance());
    assertEquals(square(0.1f) + square(0.3f), s.mse(), 1e-15);
  }

  private static double square(double x) {
    return x * x;
  }

  /** 200 positions; firing on 2 of them is exactly 1 %, which is not more than 1 %. */
  @Test
  void densitiesAtTheirLimits() {
    int tokens = 200;
    int[] times = {2, 3, 20, 21, 0};
    Tape tape = new Tape(device);
    int[] index = new int[tokens * 5];
    float[] value = new float[tokens * 5];
    int[] count = new int[tokens];
    for (int t = 0; t < tokens; t++) {
      for (int latent = 0; latent < times.length; latent++) {
        if (t < times[latent]) {
          index[t * 5 + count[t]] = latent;
          value[t * 5 + count[t]++] = 0.5f;
        }
      }
    }
    Latents latents = lists(tokens, 5, index, value, count);
    Var x = floats(tape, tokens, 1, new float[tokens]);
    statistics = new SaeStatistics(device, 1, 5);
    statistics.record(tape, new Splice(null, x, x, latents, MemorySegment.NULL, null));
    tape.bind(device).forward();
    statistics.addBatch();
    SaeStatistics.Density density = statistics.summary().density();
    assertEquals(4 / 5.0, density.alive());
    assertEquals(3 / 5.0, density.over1Percent());
    assertEquals(1 / 5.0, density.over10Percent());
    assertEquals(44 / 46.0, density.normalizedOver1Percent());
    assertEquals(21 / 46.0, density.normalizedOver10Percent());
  }
}
