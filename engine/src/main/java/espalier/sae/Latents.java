package espalier.sae;

import espalier.autograd.Tape;
import espalier.device.Device;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;
import java.util.EnumMap;
import java.util.EnumSet;
import java.util.Map;
import java.util.Set;

/**
 * Latents of each token as lists: count[t] entries (index, value) in the rows of matrices {@code
 * [tokens, capacity]}, indices ascending.
 *
 * <p>How many latents of a token are active is not known before it is encoded, and room for all m
 * would be gigabytes for wide SAEs. So the lists start short and grow when a token needs more. They
 * lie in memory of their own, outside the tape's plan; after the first few batches they no longer
 * grow.
 */
public final class Latents implements Tape.Growing {

  /** Entries a token at first, where their number is not fixed: several times a usual L0. */
  private static final long FIRST_GUESS = 256;

  /**
   * Where a batch as a whole chooses among the listed latents: entries that are listed for each one
   * that is chosen.
   */
  private static final long SPREAD = 4;

  /** What lists hold for each entry beside its index and its value; see espalier.h. */
  enum Need {
    /** The gradient of its value, then of its pre-activation z. */
    GRADIENT,
    /** Its pre-activation z. */
    PRE,
    /**
     * A place in the inverted lists (latent to tokens), for the gradients of the SAE's own weights.
     */
    BY_LATENT,
    /** The gradient of its gate. */
    GATE_GRADIENT
  }

  private final Device device;
  private final long tokens;
  private final long width;
  private final Set<Need> needs;
  private final Map<Need, MemorySegment> extra = new EnumMap<>(Need.class);
  private final MemorySegment count;
  private long capacity;
  private MemorySegment index;
  private MemorySegment value;

  /**
   * @param width m, the number of latents
   * @param capacity entries a token at first
   */
  Latents(Device device, long tokens, long width, long capacity, Set<Need> needs) {
    this.device = device;
    this.tokens = tokens;
    this.width = width;
    this.needs = needs;
    count = device.allocate(tokens * Integer.BYTES);
    Transfer.clear(count);
    allocate(capacity);
  }

  /**
   * Lists of a frozen SAE.
   *
   * @param backward whether gradients are computed from them
   */
  static Latents of(Device device, Sae sae, long tokens, boolean backward) {
    long m = sae.latents();
    Set<Need> needs = EnumSet.noneOf(Need.class);
    if (backward) {
      needs.add(Need.GRADIENT);
      if (sae.threshold() != null) {
        needs.add(Need.PRE);
      }
    }
    long capacity = sae.activation().isCounted() ? sae.k() : Math.min(FIRST_GUESS, m);
    return new Latents(device, tokens, m, capacity, needs);
  }

  /** Lists of an SAE in training. */
  static Latents of(Device device, SaeDesign design, long tokens) {
    long m = design.latents();
    Set<Need> needs = EnumSet.of(Need.GRADIENT, Need.BY_LATENT);
    switch (design.architecture()) {
      case JUMPRELU -> needs.add(Need.PRE);
      case GATED -> needs.addAll(EnumSet.of(Need.PRE, Need.GATE_GRADIENT));
      case STANDARD, TOPK, BATCHTOPK, MATRYOSHKA -> {}
    }
    long capacity =
        design.architecture().isBatchwide()
            ? SPREAD * design.k()
            : design.architecture().isCounted() ? design.k() : FIRST_GUESS;
    return new Latents(device, tokens, m, Math.min(capacity, m), needs);
  }

  private void allocate(long entries) {
    capacity = entries;
    long size = Math.multiplyExact(tokens, entries) * Float.BYTES;
    index = device.allocate(size);
    value = device.allocate(size);
    for (Need need : needs) {
      extra.put(need, device.allocate(size));
    }
  }

  /** Makes room for the longest list according to {@link #count}; the entries are lost. */
  void grow() {
    int longest = 0;
    for (int entries : Transfer.ints(count)) {
      longest = Math.max(longest, entries);
    }
    grow(longest);
  }

  /** Makes room for so many entries in each list, if there is less; the entries are lost. */
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
    return extra.getOrDefault(Need.PRE, MemorySegment.NULL);
  }

  /** The gradient of each entry's value, then of its z. */
  MemorySegment gradient() {
    return extra.get(Need.GRADIENT);
  }

  /** The gradient of each entry's gate. */
  MemorySegment gateGradient() {
    return extra.get(Need.GATE_GRADIENT);
  }

  /** The entries of each latent, see esp_sae_by_latent. */
  MemorySegment byLatent() {
    return extra.get(Need.BY_LATENT);
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
