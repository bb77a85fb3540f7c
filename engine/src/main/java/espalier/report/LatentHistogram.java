package espalier.report;

import java.util.ArrayList;
import java.util.List;

/**
 * The numbers of latents by how often they fire: log10 of the share of tokens on which a latent is
 * active, in bins of a quarter decade. Latents that never fired have no logarithm and are counted
 * separately.
 *
 * @param bins from the lowest share that can occur, one firing, to that of latents that fire on
 *     every token
 */
record LatentHistogram(List<Bin> bins, int dead, int latents) {

  static final double WIDTH = 0.25;

  /**
   * A bin. It holds its lower edge and not its upper one, which is {@code from + WIDTH}; the last
   * bin holds both.
   *
   * @param from the lower edge, log10 of the share
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
