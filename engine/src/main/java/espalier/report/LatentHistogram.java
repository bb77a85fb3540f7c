package espalier.report;

import java.util.ArrayList;
import java.util.List;

/**
 * Latents by how often they fire: log10 of the share of tokens each is active on, in bins of a
 * quarter decade. Latents that never fired have no logarithm and are counted apart.
 *
 * @param bins from the rarest that can be seen, one firing, to those that fire on every token
 */
record LatentHistogram(List<Bin> bins, int dead, int latents) {

  static final double WIDTH = 0.25;

  /**
   * @param from lower edge, log10 of the share; the bin holds this edge and not its upper one,
   *     which is {@code from + WIDTH}, but for the last bin, which holds both
   */
  record Bin(double from, int latents) {}

  static LatentHistogram of(long[] firings, long tokens) {
    int lowest = bin(1, tokens);
    int[] counts = new int[-lowest];
    int dead = 0;
    for (long fired : firings) {
      if (fired == 0) {
        dead++;
      } else {
        counts[bin(fired, tokens) - lowest]++;
      }
    }
    List<Bin> bins = new ArrayList<>();
    for (int i = 0; i < counts.length; i++) {
      bins.add(new Bin((lowest + i) * WIDTH, counts[i]));
    }
    return new LatentHistogram(bins, dead, firings.length);
  }

  private static int bin(long fired, long tokens) {
    return Math.min(-1, (int) Math.floor(Math.log10((double) fired / tokens) / WIDTH));
  }
}
