package espalier.sae;

import espalier.format.SaeWeights.Activation;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;

/**
 * Makes the lists of a whole SAE of those that ranks made of its slices, in host memory.
 *
 * <p>Slices are in the order of latents, so that one list after another is ascending. What does not
 * compare latents of different slices is complete then. Of TopK's, of which each slice names its
 * own k largest, the k largest stay, of equal ones those of lower index: as esp_sae_encode chooses.
 */
final class ListMerge {

  private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT;
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

  private final Shard.Slices slices;
  private final long kept; // of a token's latents at most
  private float[] values = new float[0]; // of one token's candidates
  private int[] latents = new int[0];
  private float[] sorted = new float[0];

  ListMerge(Sae sae) {
    slices = sae.shard().slices();
    kept = sae.activation() == Activation.TOPK ? sae.k() : sae.latents();
  }

  /** Entries of the longest merged list. */
  int longest(ListBlocks parts) {
    long longest = 0;
    for (long t = 0; t < parts.tokens(); t++) {
      long entries = 0;
      for (int r = 0; r < parts.blocks(); r++) {
        entries += parts.count(r).getAtIndex(INT, t);
      }
      longest = Math.max(longest, Math.min(entries, kept));
    }
    return Math.toIntExact(longest);
  }

  /**
   * @param parts block r: what rank r lists, its latents counted from the first of its slice
   * @param whole with room for {@link #longest} entries
   */
  void merge(ListBlocks parts, Latents whole) {
    int most = Math.toIntExact(parts.blocks() * parts.capacity());
    if (values.length < most) {
      values = new float[most];
      latents = new int[most];
      sorted = new float[most];
    }
    for (long t = 0; t < parts.tokens(); t++) {
      int found = candidates(parts, t);
      write(whole, t, found);
    }
  }

  /** All ranks' entries for a token; where a z was NaN, the one entry that says so. */
  private int candidates(ListBlocks parts, long token) {
    int found = 0;
    for (int r = 0; r < parts.blocks(); r++) {
      int count = parts.count(r).getAtIndex(INT, token);
      MemorySegment index = parts.index(r);
      MemorySegment value = parts.value(r);
      int first = (int) slices.first(r);
      for (int j = 0; j < count; j++) {
        long at = token * parts.capacity() + j;
        latents[found] = first + index.getAtIndex(INT, at);
        values[found] = value.getAtIndex(FLOAT, at);
        if (Float.isNaN(values[found])) {
          latents[0] = 0;
          values[0] = Float.NaN;
          return 1;
        }
        found++;
      }
    }
    return found;
  }

  private void write(Latents whole, long token, int found) {
    float bar = Float.NEGATIVE_INFINITY;
    long ofBar = found; // how many of those at the bar stay
    if (found > kept) {
      System.arraycopy(values, 0, sorted, 0, found);
      Arrays.sort(sorted, 0, found);
      bar = sorted[(int) (found - kept)];
      ofBar = kept;
      for (int j = 0; j < found; j++) {
        ofBar -= values[j] > bar ? 1 : 0;
      }
    }
    MemorySegment index = whole.index();
    MemorySegment value = whole.value();
    MemorySegment pre = whole.pre();
    long at = token * whole.capacity();
    long next = at;
    for (int j = 0; j < found; j++) {
      if (values[j] < bar || (values[j] == bar && ofBar-- <= 0)) {
        continue;
      }
      index.setAtIndex(INT, next, latents[j]);
      value.setAtIndex(FLOAT, next, values[j]);
      if (!pre.equals(MemorySegment.NULL)) { // thresholds are at least 0: what is active is its z
        pre.setAtIndex(FLOAT, next, values[j]);
      }
      next++;
    }
    whole.count().setAtIndex(INT, token, (int) (next - at));
  }
}
