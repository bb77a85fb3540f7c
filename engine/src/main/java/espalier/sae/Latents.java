package espalier.sae;

import espalier.autograd.Tape;
import espalier.device.Device;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;

/**
 * Latents of each token as lists: count[t] entries (index, value) in the rows of matrices {@code
 * [tokens, capacity]}, indices ascending.
 *
 * <p>How many latents a token has is not known before it is encoded, and m for each would be
 * gigabytes for wide SAEs. So the lists start short and grow when a token needs more: they lie in
 * memory of their own, outside the tape's plan, and after the first few batches no longer change.
 */
public final class Latents implements Tape.Growing {

  /** Entries a token at first, where their number is not fixed: several times a usual L0. */
  private static final long FIRST_GUESS = 256;

  private final Device device;
  private final long tokens;
  private final long width;
  private final boolean backward;
  private final boolean trained;
  private final boolean hasThresholds;
  private final MemorySegment count;
  private long capacity;
  private MemorySegment index;
  private MemorySegment value;
  private MemorySegment pre = MemorySegment.NULL;
  private MemorySegment gradient = MemorySegment.NULL;
  private MemorySegment byLatent = MemorySegment.NULL;

  /**
   * @param width m, the number of latents
   * @param capacity entries a token at first
   * @param backward whether gradients are computed from the lists
   * @param hasThresholds whether they then need to know z
   * @param trained whether the SAE's own weights get gradients
   */
  Latents(
      Device device,
      long tokens,
      long width,
      long capacity,
      boolean backward,
      boolean hasThresholds,
      boolean trained) {
    this.device = device;
    this.tokens = tokens;
    this.width = width;
    this.backward = backward;
    this.hasThresholds = hasThresholds;
    this.trained = trained;
    count = device.allocate(tokens * Integer.BYTES);
    Transfer.clear(count);
    allocate(capacity);
  }

  static Latents of(Device device, Sae sae, long tokens, boolean backward) {
    long m = sae.latents();
    return new Latents(
        device,
        tokens,
        m,
        sae.activation().isCounted() ? sae.k() : Math.min(FIRST_GUESS, m),
        backward,
        sae.threshold() != null,
        sae.isTrainable());
  }

  private void allocate(long entries) {
    capacity = entries;
    long size = Math.multiplyExact(tokens, entries) * Float.BYTES;
    index = device.allocate(size);
    value = device.allocate(size);
    if (backward) {
      gradient = device.allocate(size);
    }
    if (backward && hasThresholds) {
      pre = device.allocate(size);
    }
    if (trained) {
      byLatent = device.allocate(size);
    }
  }

  /** Makes room for the longest list that {@link #count} tells of; what was listed is lost. */
  void grow() {
    int longest = 0;
    for (int entries : Transfer.ints(count)) {
      longest = Math.max(longest, entries);
    }
    grow(longest);
  }

  /** Makes room for lists of so many entries, where there is less; what was listed is lost. */
  @Override
  public void grow(int entries) {
    if (entries > capacity) {
      allocate(Math.min(width, Math.max(entries, 2 * capacity)));
    }
  }

  /** m, the number of latents. */
  public long width() {
    return width;
  }

  public long tokens() {
    return tokens;
  }

  /** Entries that each row has room for. */
  public long capacity() {
    return capacity;
  }

  /** int32 {@code [tokens, capacity]} */
  public MemorySegment index() {
    return index;
  }

  /** {@code [tokens, capacity]} */
  public MemorySegment value() {
    return value;
  }

  /** int32 {@code [tokens]} */
  public MemorySegment count() {
    return count;
  }

  /** z of each entry, where the backward pass needs it; else NULL. */
  MemorySegment pre() {
    return pre;
  }

  /** The gradient of each entry's value, then of its z. */
  MemorySegment gradient() {
    return gradient;
  }

  /** The entries of each latent, see esp_sae_by_latent. */
  MemorySegment byLatent() {
    return byLatent;
  }

  /** The lists as they are now, on the host. */
  public Lists read() {
    return new Lists(
        width, capacity, Transfer.ints(count), Transfer.ints(index), Transfer.floats(value));
  }

  /**
   * A copy of all lists: see {@link Latents#count}, {@link Latents#index}, {@link Latents#value}.
   */
  public record Lists(long width, long capacity, int[] count, int[] index, float[] value) {

    /** Where the list of a token starts in index and value. */
    private int start(int token) {
      return Math.toIntExact(token * capacity);
    }

    /** The value of a latent; 0 where it is not active. */
    public float value(int token, int latent) {
      for (int j = start(token); j < start(token) + count[token]; j++) {
        if (index[j] == latent) {
          return value[j];
        }
      }
      return 0;
    }

    /** Entries with a value: lists may hold a few inactive ones near their thresholds. */
    public int active(int token) {
      int active = 0;
      for (int j = start(token); j < start(token) + count[token]; j++) {
        active += value[j] != 0 ? 1 : 0;
      }
      return active;
    }

    /** A token's latents with all their zeros, {@code [m]}. */
    public float[] dense(int token) {
      float[] dense = new float[Math.toIntExact(width)];
      for (int j = start(token); j < start(token) + count[token]; j++) {
        dense[index[j]] = value[j];
      }
      return dense;
    }
  }
}
