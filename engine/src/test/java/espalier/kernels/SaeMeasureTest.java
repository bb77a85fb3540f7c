package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SaeMeasureTest extends KernelTest {

  @ParameterizedTest
  @CsvSource({"1, 1", "9, 33", "130, 65", "0, 4"})
  void meanSquaredError(int tokens, int d) {
    float[] x = random(tokens * d);
    float[] y = random(tokens * d);
    byte[] keep = new byte[tokens];
    if (tokens > 3) keep[3] = 1;
    float scale = 0.3f;
    double[] loss = new double[tokens];
    double[] gradient = new double[tokens * d];
    for (int i = 0; i < tokens * d; i++) {
      if (keep[i / d] != 0) continue;
      double difference = (double) y[i] - x[i];
      loss[i / d] += difference * difference;
      gradient[i] = scale * 2 * difference;
    }
    if (tokens > 0 && tokens < 10) {
      double[] target = doubles(x);
      assertGradient(
          v -> {
            double sum = 0;
            for (int i = 0; i < v.length; i++) {
              if (keep[i / d] == 0) sum += scale * (v[i] - target[i]) * (v[i] - target[i]);
            }
            return sum;
          },
          doubles(y),
          gradient);
    }
    MemorySegment keeping = tokens > 3 ? buffers.input(keep) : NULL;
    MemorySegment lossOut = buffers.floats(tokens);
    MemorySegment dY = buffers.floats(tokens * d);
    kernels.saeMse(buffers.input(x), buffers.input(y), keeping, lossOut, dY, scale, tokens, d);
    assertNear("loss", loss, lossOut, relative(loss, 1));
    assertNear("d_y", gradient, dY, relative(gradient, 2));

    MemorySegment alone = buffers.floats(tokens);
    kernels.saeMse(buffers.input(x), buffers.input(y), keeping, alone, NULL, scale, tokens, d);
    assertSameBits(TestBuffers.toFloats(lossOut), TestBuffers.toFloats(alone), "loss alone");
  }

  private static final int HEADER = 11;

  private record Stats(double[] stats, long[] fired) {}

  private Stats run(float[] x, float[] y, Lists lists, byte[] keep, int d, int times) {
    MemorySegment stats = buffers.doubles(HEADER + d);
    MemorySegment fired = buffers.longs(lists.m());
    Transfer.clear(stats);
    Transfer.clear(fired);
    for (int i = 0; i < times; i++) {
      kernels.saeStats(
          buffers.input(x),
          buffers.input(y),
          buffers.input(lists.index()),
          buffers.input(lists.value()),
          buffers.input(lists.count()),
          lists.capacity(),
          keep == null ? NULL : buffers.input(keep),
          stats,
          fired,
          lists.tokens(),
          d,
          lists.m());
    }
    return new Stats(TestBuffers.toDoubles(stats), TestBuffers.toLongs(fired));
  }

  @ParameterizedTest
  @CsvSource({"1, 5, 3, 1", "9, 40, 5, 33", "200, 300, 9, 130"})
  void statistics(int tokens, int m, int capacity, int d) {
    Lists lists = Lists.random(new Random(3), tokens, m, capacity);
    for (int i = 0; i < lists.value().length; i += 7) lists.value()[i] *= 0; // in a list, inactive
    float[] x = random(tokens * d, 100);
    float[] y = random(tokens * d, 100);
    if (tokens > 5) Arrays.fill(x, 5 * d, 6 * d, 1e-6f); // too short to be compared with
    byte[] keep = new byte[tokens];
    if (tokens > 3) keep[3] = 1;
    double[] expected = new double[HEADER + d];
    long[] fired = new long[m];
    for (int t = 0; t < tokens; t++) {
      if (keep[t] != 0) continue;
      double xx = 0;
      double yy = 0;
      double xy = 0;
      for (int i = t * d; i < (t + 1) * d; i++) {
        expected[1] += ((double) x[i] - y[i]) * ((double) x[i] - y[i]);
        xx += (double) x[i] * x[i];
        yy += (double) y[i] * y[i];
        xy += (double) x[i] * y[i];
        expected[HEADER + i % d] += x[i];
      }
      expected[0]++;
      expected[2] += xx;
      expected[3] += xy / Math.max(Math.sqrt(xx * yy), 1e-8);
      expected[5] += yy;
      expected[6] += xy;
      expected[7] += Math.sqrt(xx);
      expected[8] += Math.sqrt(yy);
      expected[9] += Math.sqrt(xx) < 1e-4 ? 1 : Math.sqrt(yy / xx);
    }
    lists.forEach(
        (t, entry, latent) -> {
          if (keep[t] != 0 || lists.value()[entry] == 0) return;
          expected[4]++;
          expected[10] += lists.value()[entry];
          fired[latent]++;
        });
    Stats once = run(x, y, lists, tokens > 3 ? keep : null, d, 1);
    assertArrayEquals(fired, once.fired);
    for (int i = 0; i < HEADER + d; i++) {
      // Products and column sums may cancel.
      double size = i == 6 || i >= HEADER ? 1e5 : Math.abs(expected[i]);
      assertEquals(expected[i], once.stats[i], 1e-13 * (size + 1), "stats[" + i + "]");
    }
    Stats twice = run(x, y, lists, tokens > 3 ? keep : null, d, 2);
    for (int i = 0; i < HEADER; i++) {
      assertEquals(2 * once.stats[i], twice.stats[i], 1e-13 * (Math.abs(once.stats[i]) + 1));
    }
    for (int i = 0; i < m; i++) assertEquals(2 * fired[i], twice.fired[i]);
  }

  @Test
  void isTheSameForAnyThreads() {
    Lists lists = Lists.random(new Random(4), 1100, 50, 6);
    float[] x = random(1100 * 90);
    float[] y = random(1100 * 90);
    kernels.setThreads(1);
    Stats one = run(x, y, lists, null, 90, 1);
    for (int threads = 2; threads <= 3; threads++) {
      kernels.setThreads(threads);
      Stats more = run(x, y, lists, null, 90, 1);
      assertArrayEquals(one.stats, more.stats);
      assertArrayEquals(one.fired, more.fired);
    }
  }
}
