package espalier.report;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;

class LatentHistogramTest {

  @Test
  void countsLatentsByTheLogarithmOfTheirFrequency() {
    // Of 1000 tokens: shares 0.001, 0.001, 0.01, 0.02, 0.5, 1; log10: -3, -3, -2, -1.70, -0.30, 0.
    LatentHistogram histogram =
        LatentHistogram.of(new long[] {1, 0, 1, 10, 20, 0, 500, 1000, 0}, 1000);
    assertEquals(9, histogram.latents());
    assertEquals(3, histogram.dead());
    assertEquals(Map.of(-3.0, 2, -2.0, 1, -1.75, 1, -0.5, 1, -0.25, 1), filled(histogram));
  }

  @Test
  void binsLeaveNoGapFromASingleFiringToEveryToken() {
    LatentHistogram histogram = LatentHistogram.of(new long[] {7}, 193_019);
    // log10(1 / 193019) = -5.29
    assertEquals(-5.5, histogram.bins().getFirst().from());
    assertEquals(-0.25, histogram.bins().getLast().from());
    assertEquals(22, histogram.bins().size());
    for (int i = 1; i < histogram.bins().size(); i++) {
      assertEquals(
          LatentHistogram.WIDTH,
          histogram.bins().get(i).from() - histogram.bins().get(i - 1).from());
    }
  }

  @Test
  void holdsEveryLatentOnce() {
    long tokens = 12_345;
    long[] firings = new long[(int) tokens + 1];
    for (int i = 0; i < firings.length; i++) {
      firings[i] = i;
    }
    LatentHistogram histogram = LatentHistogram.of(firings, tokens);
    assertEquals(1, histogram.dead());
    assertEquals(tokens, filled(histogram).values().stream().mapToInt(n -> n).sum());
    for (LatentHistogram.Bin bin : histogram.bins()) {
      boolean last = bin.from() == -LatentHistogram.WIDTH;
      double low = tokens * Math.pow(10, bin.from());
      double high = last ? tokens + 1 : tokens * Math.pow(10, bin.from() + LatentHistogram.WIDTH);
      int expected = 0;
      for (int fired = 1; fired <= tokens; fired++) {
        expected += fired >= low && fired < high ? 1 : 0;
      }
      assertEquals(expected, bin.latents(), "from " + bin.from());
    }
  }

  @Test
  void aSingleTokenMakesASingleBin() {
    LatentHistogram histogram = LatentHistogram.of(new long[] {1, 0, 1}, 1);
    assertEquals(Map.of(-0.25, 2), filled(histogram));
    assertEquals(1, histogram.bins().size());
  }

  private static Map<Double, Integer> filled(LatentHistogram histogram) {
    Map<Double, Integer> filled = new TreeMap<>();
    for (LatentHistogram.Bin bin : histogram.bins()) {
      if (bin.latents() > 0) {
        filled.put(bin.from(), bin.latents());
      }
    }
    return filled;
  }
}
