package espalier.sae;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.Kernels;
import espalier.device.Transfer;
import espalier.distributed.Ranks;
import espalier.format.InputException;
import espalier.format.SaeWeights.Activation;
import java.lang.foreign.MemorySegment;
import java.util.List;

/**
 * Computes a {@link Splice} where ranks hold its SAE together. Each rank has tokens of its own and
 * does a part of the work on everybody's, so all ranks run the same passes at the same time:
 *
 * <ol>
 *   <li>All ranks receive everybody's activations, and each encodes them with its own latents.
 *   <li>The lists go back to the ranks that the tokens belong to, which merge them into the lists
 *       of the whole SAE.
 *   <li>All ranks receive everybody's merged lists. Each decodes its own columns, which go back to
 *       the ranks that the tokens belong to.
 * </ol>
 *
 * <p>Backward: all ranks receive everybody's gradient of what was decoded, and each computes the
 * gradients of its own latents' values. These go back to the ranks that the tokens belong to, and
 * become gradients of z there. All ranks receive those, and each computes its own columns of the
 * input's gradient. Every number is that of the whole SAE: see {@link Shard}.
 *
 * <p>Of N ranks with T tokens each, one receives N T (dIn + 4 L) + T dOut numbers in a forward pass
 * and N T (dOut + 2 L) + T dIn in a backward pass, for lists of L entries, those of d in the
 * device's type.
 *
 * <p>Between kernels the host waits only to learn whether lists were too short, where they can be.
 * In a step that is replayed it does not wait for that either; all ranks then see the same {@link
 * espalier.device.Control#overflow} at the end.
 */
final class ShardedSplice {

  /** Of blocks that are sent: kernels read 16 bytes at a time where each block is so aligned. */
  private static final long ALIGNED_FLOATS = 16;

  private final Tape tape;
  private final Device device;
  private final Sae sae;
  private final Shard shard;
  private final Ranks ranks;
  private final int size;
  private final long tokens;
  private final long inputs;
  private final long outputs;
  private final Latents latents; // of this rank's tokens, as of the whole SAE
  private final MemorySegment first; // int32 [size]: where slices of latents begin
  private final Var scratch; // of the encoder
  private final Blocks input; // activations [tokens, inputs], then keep [tokens] as bytes
  private final Columns forward;
  private final Blocks dOutput; // [tokens, outputs]
  private final Columns backward;
  private ListBlocks listed; // own latents of everybody's tokens
  private ListBlocks returned; // everybody's latents of own tokens
  private ListBlocks whole; // merged, of everybody's tokens
  private MemorySegment ownIndex; // [tokens, capacity], of one block of those the own latents
  private final MemorySegment ownCount; // [tokens]
  private MemorySegment gradients; // [size, tokens, capacity]: of values, then of z
  private MemorySegment gradientsReturned;

  /**
   * A block of memory for each rank's tokens. Each rank fills its own block and receives the
   * others.
   */
  private final class Blocks {
    private final Var memory;

    /**
     * @param bytes of each
     */
    Blocks(long bytes) {
      long units = (bytes + ALIGNED_FLOATS * Float.BYTES - 1) / (ALIGNED_FLOATS * Float.BYTES);
      memory = tape.value(size, message(units * ALIGNED_FLOATS));
    }

    MemorySegment of(int rank) {
      return block(memory.data(), rank, memory.cols());
    }

    MemorySegment own() {
      return of(ranks.rank());
    }

    void collect() {
      ranks.collect(memory.data(), memory.size(), memory.cols());
    }
  }

  /**
   * A matrix {@code [tokens, width]} of which each rank computes some columns, for everybody's
   * tokens, and how these get to the ranks that the tokens belong to.
   */
  private final class Columns {
    private final long width;
    private final long own;
    private final Var made; // [size] blocks [tokens, own]: of everybody's tokens
    private final Var returned; // [size] blocks [tokens, own]: everybody's columns of own tokens

    Columns(long width) {
      this.width = width;
      own = Shard.columns(width, size);
      long floats = message(tokens * own * device.type().bytes() / Float.BYTES);
      made = tape.value(size, floats);
      returned = tape.value(size, floats);
    }

    /** What this rank makes for the tokens of another. */
    MemorySegment of(int rank) {
      return block(made.data(), rank, made.cols());
    }

    /**
     * @param keep rows that become those of {@code kept}; NULL for none
     * @param to {@code [tokens, width]}
     */
    void sendHome(Kernels k, MemorySegment keep, MemorySegment kept, MemorySegment to) {
      exchange();
      k.joinColumns(returned.data(), own, keep, kept, to, tokens, width);
    }

    void exchange() {
      ranks.exchange(made.data(), returned.data(), made.size(), made.cols());
    }
  }

  /**
   * @param latents of this rank's tokens
   * @param needsBackward whether gradients are asked for
   */
  ShardedSplice(Tape tape, Sae sae, long tokens, Latents latents, boolean needsBackward) {
    this.tape = tape;
    this.sae = sae;
    this.tokens = tokens;
    this.latents = latents;
    device = tape.device();
    shard = sae.shard();
    ranks = shard.ranks();
    size = ranks.size();
    inputs = sae.inputs();
    outputs = sae.outputs();
    first = device.allocate((long) size * Integer.BYTES);
    for (int r = 0; r < size; r++) {
      Transfer.write(
          first.asSlice((long) r * Integer.BYTES), Math.toIntExact(shard.slices().first(r)));
    }
    scratch = tape.value(1, tape.kernels().saeEncodeScratch(inputs, shard.latents()));
    input = new Blocks(keepAt() + tokens);
    forward = new Columns(outputs);
    dOutput = needsBackward ? new Blocks(activationBytes(outputs)) : null;
    backward = needsBackward ? new Columns(inputs) : null;
    ownCount = needsBackward ? device.allocate(tokens * Integer.BYTES) : null;
    if (needsBackward) {
      shard.backward(); // is read now: before the step all memory is there
    }
    makeLists();
  }

  /** Scratch of the forward pass. */
  List<Var> forwardScratch() {
    return List.of(scratch, input.memory, forward.made, forward.returned);
  }

  /** Scratch of the backward pass, if there is one. */
  List<Var> backwardScratch() {
    return List.of(dOutput.memory, backward.made, backward.returned);
  }

  /** Of all tokens of a rank. */
  private long activationBytes(long width) {
    return tokens * width * device.type().bytes();
  }

  /** As many floats of each rank are sent at once. */
  private long message(long floats) {
    if (floats > Integer.MAX_VALUE / size) {
      throw new InputException(
          "--shard-sae: %d ranks exchange %d floats each at once, 2^31 in all are the limit; try a"
                  .formatted(size, floats)
              + " smaller --batch or --context");
    }
    return floats;
  }

  private static MemorySegment block(MemorySegment blocks, int number, long floats) {
    return blocks.asSlice(number * floats * Float.BYTES, floats * Float.BYTES);
  }

  /** As long as {@link #latents} are now. */
  private void makeLists() {
    long capacity = latents.capacity();
    message(ListBlocks.floats(tokens, capacity));
    listed = ListBlocks.allocate(device, size, tokens, capacity);
    returned = ListBlocks.allocate(device, size, tokens, capacity);
    whole = ListBlocks.allocate(device, size, tokens, capacity);
    if (backward != null) {
      long bytes = tokens * capacity * Float.BYTES;
      ownIndex = device.allocate(bytes);
      gradients = device.allocate(size * bytes);
      gradientsReturned = device.allocate(size * bytes);
    }
  }

  /**
   * The lists of this rank's tokens.
   *
   * @param x {@code [tokens, dIn]}, normalised where the SAE's input is
   * @param keep as the splice has it
   */
  void encode(Kernels k, MemorySegment x, MemorySegment keep) {
    device.copy(x.asSlice(0, activationBytes(inputs)), input.own());
    if (keep.equals(MemorySegment.NULL)) {
      fillKeep(k, 0);
    } else {
      device.copy(keep.asSlice(0, tokens), keepOf(ranks.rank()));
    }
    encodeEverybodys(k);
  }

  /** Where it begins in a block of the input, at a whole float. */
  private long keepAt() {
    return (activationBytes(inputs) + Float.BYTES - 1) / Float.BYTES * Float.BYTES;
  }

  private MemorySegment keepOf(int rank) {
    return input.of(rank).asSlice(keepAt(), tokens);
  }

  /**
   * Of this rank's block.
   *
   * @param flag of all tokens
   */
  private void fillKeep(Kernels k, int flag) {
    MemorySegment flags = input.own().asSlice(keepAt());
    k.fill(flags, Float.intBitsToFloat(flag * 0x01010101), flags.byteSize() / Float.BYTES);
  }

  private void encodeEverybodys(Kernels k) {
    input.collect();
    do {
      if (listed.capacity() != latents.capacity()) {
        makeLists();
      }
      list(k);
    } while (grow());
  }

  /** The same on all ranks, which all have as much room and are told the most that one needed. */
  private boolean grow() {
    if (sae.activation().isCounted()) {
      return false;
    }
    ranks.largest(overflow(), 1);
    int needed = device.isReplaying() ? 0 : device.takeOverflow();
    latents.grow(needed);
    return needed > 0;
  }

  private MemorySegment overflow() {
    return device.control().overflowData();
  }

  private void list(Kernels k) {
    for (int r = 0; r < size; r++) {
      encodeBlock(k, r);
    }
    ranks.exchange(listed.memory(), returned.memory(), size * listed.floats(), listed.floats());
    k.saeMerge(
        returned.memory(),
        first,
        size,
        sae.activation() == Activation.TOPK ? sae.k() : 0,
        latents.index(),
        latents.value(),
        latents.pre(),
        latents.count(),
        latents.capacity(),
        overflow(),
        tokens);
  }

  /**
   * Encodes a rank's tokens with this rank's own latents. Counts or the overflow tell if lists are
   * too short.
   */
  private void encodeBlock(Kernels k, int rank) {
    long from = shard.firstLatent() * Float.BYTES;
    k.saeEncode(
        input.of(rank),
        sae.wEnc().matrix().data(),
        sae.bEnc().data().asSlice(from),
        sae.bPreData(),
        sae.activation().ordinal(),
        sae.threshold() == null ? MemorySegment.NULL : sae.threshold().data().asSlice(from),
        0,
        ownK(),
        keepOf(rank),
        listed.index(rank),
        listed.value(rank),
        MemorySegment.NULL,
        listed.count(rank),
        listed.capacity(),
        overflow(),
        scratch.data(),
        tokens,
        inputs,
        shard.latents());
  }

  /**
   * How many of a token's largest latents this rank lists among its own; for GroupMax, its groups.
   */
  private int ownK() {
    return sae.activation() == Activation.GROUPMAX
        ? (int) (shard.latents() / (sae.latents() / sae.k()))
        : (int) Math.min(sae.k(), shard.latents());
  }

  /**
   * What the lists are decoded to; as esp_sae_decode.
   *
   * @param keep rows that become those of x; NULL for none
   * @param out {@code [tokens, dOut]}
   */
  void decode(Kernels k, MemorySegment keep, MemorySegment x, MemorySegment out) {
    decodeEverybodys(k);
    forward.sendHome(k, keep, x, out);
  }

  private void decodeEverybodys(Kernels k) {
    int own = ranks.rank();
    device.copy(latents.count(), whole.count(own));
    device.copy(latents.index(), whole.index(own));
    device.copy(latents.value(), whole.value(own));
    ranks.collect(whole.memory(), size * whole.floats(), whole.floats());
    for (int r = 0; r < size; r++) {
      k.saeDecode(
          whole.index(r),
          whole.value(r),
          whole.count(r),
          whole.capacity(),
          sae.wDec().matrix().data(),
          shard.bias().data(),
          MemorySegment.NULL,
          MemorySegment.NULL,
          forward.of(r),
          tokens,
          forward.own);
    }
  }

  /** Takes part in a forward pass of the others, without tokens of its own. */
  void join(Kernels k) {
    k.fill(input.own(), 0, input.memory.cols());
    fillKeep(k, 1); // no token is encoded
    encodeEverybodys(k);
    decodeEverybodys(k);
    forward.exchange();
  }

  /**
   * Gradients of the values of this rank's lists; as esp_sae_decode_backward.
   *
   * @param dOut {@code [tokens, dOut]}
   */
  void decodeBackward(Kernels k, MemorySegment dOut) {
    device.copy(dOut.asSlice(0, activationBytes(outputs)), dOutput.own());
    dOutput.collect();
    long floats = tokens * whole.capacity();
    for (int r = 0; r < size; r++) {
      k.saePart(
          whole.index(r),
          whole.count(r),
          whole.capacity(),
          shard.firstLatent(),
          shard.latents(),
          ownIndex,
          ownCount,
          tokens);
      k.saeDecodeBackward(
          dOutput.of(r),
          ownIndex,
          ownCount,
          whole.capacity(),
          shard.backward().decoderRows().data(),
          block(gradients, r, floats),
          tokens,
          outputs);
    }
    ranks.exchange(gradients, gradientsReturned, size * floats, floats);
    k.saeJoin(
        gradientsReturned,
        first,
        size,
        latents.index(),
        latents.count(),
        latents.capacity(),
        latents.gradient(),
        tokens);
  }

  /**
   * The gradient of the input, from those of z; as esp_sae_encode_backward without accumulation.
   *
   * @param keep rows whose gradient is that of the output, dOut; NULL for none
   * @param dX {@code [tokens, dIn]}
   */
  void encodeBackward(Kernels k, MemorySegment keep, MemorySegment dOut, MemorySegment dX) {
    long floats = tokens * whole.capacity();
    device.copy(latents.gradient(), block(gradients, ranks.rank(), floats));
    ranks.collect(gradients, size * floats, floats);
    for (int r = 0; r < size; r++) {
      k.saeEncodeBackward(
          block(gradients, r, floats),
          whole.index(r),
          whole.count(r),
          whole.capacity(),
          shard.backward().encoderColumns().data(),
          MemorySegment.NULL,
          MemorySegment.NULL,
          backward.of(r),
          false,
          tokens,
          backward.own);
    }
    backward.sendHome(k, keep, dOut, dX);
  }
}
