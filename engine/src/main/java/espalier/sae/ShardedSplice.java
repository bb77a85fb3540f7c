package espalier.sae;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Kernels;
import espalier.distributed.Ranks;
import espalier.format.InputException;
import espalier.format.SaeWeights.Activation;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.List;

/**
 * What a {@link Splice} computes where ranks hold its SAE together. Each rank has tokens of its own
 * and does a part of everybody's, so all ranks run the same passes at once:
 *
 * <ol>
 *   <li>All get everybody's activations, and each encodes them with its own latents.
 *   <li>The lists go to the ranks whose tokens they are of, which {@linkplain ListMerge merge} them
 *       into those of the whole SAE.
 *   <li>All get everybody's lists, and each decodes its own columns, which go to the ranks whose
 *       tokens they are of.
 * </ol>
 *
 * <p>Backward: all get everybody's gradient of what was decoded, and each has those of its own
 * latents' values; these go home, and there become gradients of z; all get those, and each has its
 * own columns of the input's gradient. Every number is that of the whole SAE: see {@link Shard}.
 *
 * <p>Of N ranks with T tokens each, one gets N T (dIn + 4 L) + T dOut floats in a forward pass and
 * N T (dOut + 3 L) + T dIn in a backward pass, for lists of L entries.
 *
 * <p>In host memory alone: the host merges lists and puts columns side by side.
 */
final class ShardedSplice {

  private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT;
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

  private final Tape tape;
  private final Sae sae;
  private final Shard shard;
  private final Ranks ranks;
  private final int size;
  private final long tokens;
  private final long inputs;
  private final long outputs;
  private final Latents latents; // of this rank's tokens, as of the whole SAE
  private final ListMerge merge;
  private final Var scratch; // of the encoder
  private final Var input; // [size] blocks: activations [tokens, inputs], keep [tokens] as bytes
  private final Columns forward;
  private final Var dOutput; // [size, tokens, outputs]
  private final Columns backward;
  private ListBlocks listed; // own latents of everybody's tokens
  private ListBlocks returned; // everybody's latents of own tokens
  private ListBlocks whole; // merged, of everybody's tokens
  private ListBlocks ownPart; // of those the own latents; values are gradients
  private ListBlocks ownReturned;
  private MemorySegment dPre; // [size, tokens, capacity]: gradients beside the merged lists

  /** Columns of a matrix {@code [tokens, width]} that ranks make together, and its way home. */
  private final class Columns {
    private final long width;
    private final long own;
    private final Var made; // [size, tokens, own]: of everybody's tokens
    private final Var returned; // [size, tokens, own]: everybody's columns of own tokens

    Columns(long width) {
      this.width = width;
      own = Shard.columns(width, size);
      made = tape.value(size, message(tokens * own));
      returned = tape.value(size, tokens * own);
    }

    /** What this rank makes for the tokens of another. */
    MemorySegment of(int rank) {
      return block(made.data(), rank, tokens * own);
    }

    void send() {
      ranks.exchange(made.data(), returned.data(), made.size(), tokens * own);
    }

    /** After {@link #send}: puts a token's columns side by side. */
    void copyRow(long token, MemorySegment to) {
      for (int r = 0; r * own < width; r++) { // the last ranks' may be none
        long real = Math.min(own, width - r * own);
        MemorySegment from = block(returned.data(), r, tokens * own);
        MemorySegment.copy(
            from,
            token * own * Float.BYTES,
            to,
            (token * width + r * own) * Float.BYTES,
            real * Float.BYTES);
      }
    }
  }

  /**
   * @param latents of this rank's tokens
   * @param needsBackward whether gradients are asked for
   */
  ShardedSplice(Tape tape, Sae sae, long tokens, Latents latents, boolean needsBackward) {
    if (!tape.device().isHost()) {
      throw new IllegalArgumentException("ranks hold SAEs together in host memory only");
    }
    this.tape = tape;
    this.sae = sae;
    this.tokens = tokens;
    this.latents = latents;
    shard = sae.shard();
    ranks = shard.ranks();
    size = ranks.size();
    inputs = sae.inputs();
    outputs = sae.outputs();
    merge = new ListMerge(sae);
    scratch = tape.value(1, tape.kernels().saeEncodeScratch(inputs, shard.latents()));
    input = tape.value(size, message(inputFloats()));
    forward = new Columns(outputs);
    dOutput = needsBackward ? tape.value(size, message(tokens * outputs)) : null;
    backward = needsBackward ? new Columns(inputs) : null;
    if (needsBackward) {
      shard.backward(); // is read now: before the step all memory is there
    }
    makeLists(latents.capacity());
    makeWhole();
  }

  /** Scratch of the forward pass. */
  List<Var> forwardScratch() {
    return List.of(scratch, input, forward.made, forward.returned);
  }

  /** Scratch of the backward pass, if there is one. */
  List<Var> backwardScratch() {
    return List.of(dOutput, backward.made, backward.returned);
  }

  private long inputFloats() {
    return tokens * inputs + (tokens + Float.BYTES - 1) / Float.BYTES;
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

  private void makeLists(long capacity) {
    listed = blocks(capacity);
    returned = blocks(capacity);
  }

  private ListBlocks blocks(long capacity) {
    message(ListBlocks.floats(tokens, capacity));
    return ListBlocks.allocate(tape.device(), size, tokens, capacity);
  }

  private void makeWhole() {
    long capacity = latents.capacity();
    whole = blocks(capacity);
    if (backward != null) {
      ownPart = blocks(capacity);
      ownReturned = blocks(capacity);
      dPre = tape.device().allocate(size * tokens * capacity * Float.BYTES);
    }
  }

  /**
   * The lists of this rank's tokens.
   *
   * @param x {@code [tokens, dIn]}, normalised where the SAE's input is
   * @param keep as the splice has it
   */
  void encode(Kernels k, MemorySegment x, MemorySegment keep) {
    MemorySegment own = block(input.data(), ranks.rank(), inputFloats());
    MemorySegment.copy(x, 0, own, 0, tokens * inputs * Float.BYTES);
    MemorySegment flags = own.asSlice(tokens * inputs * Float.BYTES);
    if (keep.equals(MemorySegment.NULL)) {
      flags.fill((byte) 0);
    } else {
      MemorySegment.copy(keep, 0, flags, 0, tokens);
    }
    encodeEverybodys(k);
  }

  private void encodeEverybodys(Kernels k) {
    ranks.collect(input.data(), size * inputFloats(), inputFloats());
    encodeListed(k);
    if (!sae.activation().isCounted()) {
      int longest;
      while ((longest = agreed(longestListed())) > listed.capacity()) {
        makeLists(Math.max(longest, 2 * listed.capacity()));
        encodeListed(k);
      }
    }
    ranks.exchange(listed.memory(), returned.memory(), size * listed.floats(), listed.floats());
    if (!sae.activation().isCounted()) {
      int longest = agreed(merge.longest(returned));
      if (longest > latents.capacity()) {
        latents.grow(longest);
        makeWhole();
      }
    }
    merge.merge(returned, latents);
  }

  private void encodeListed(Kernels k) {
    long first = shard.firstLatent() * Float.BYTES;
    for (int b = 0; b < size; b++) {
      MemorySegment of = block(input.data(), b, inputFloats());
      k.saeEncode( // too short lists tell by their counts
          of,
          sae.wEnc().matrix().data(),
          sae.bEnc().data().asSlice(first),
          sae.bPre() == null ? MemorySegment.NULL : sae.bPre().data(),
          sae.activation().ordinal(),
          sae.threshold() == null ? MemorySegment.NULL : sae.threshold().data().asSlice(first),
          0,
          ownK(),
          of.asSlice(tokens * inputs * Float.BYTES),
          listed.index(b),
          listed.value(b),
          MemorySegment.NULL,
          listed.count(b),
          listed.capacity(),
          MemorySegment.NULL,
          scratch.data(),
          tokens,
          inputs,
          shard.latents());
    }
  }

  /** The largest of a token among the own latents, or their groups. */
  private int ownK() {
    return sae.activation() == Activation.GROUPMAX
        ? (int) (shard.latents() / (sae.latents() / sae.k()))
        : (int) Math.min(sae.k(), shard.latents());
  }

  private int longestListed() {
    int longest = 0;
    for (int b = 0; b < size; b++) {
      MemorySegment count = listed.count(b);
      for (long t = 0; t < tokens; t++) {
        longest = Math.max(longest, count.getAtIndex(INT, t));
      }
    }
    return longest;
  }

  /** The largest that a rank says: all make room for as much. */
  private int agreed(int own) {
    double most = 0;
    for (double needed : ranks.gather((double) own)) {
      most = Math.max(most, needed);
    }
    return (int) most;
  }

  /**
   * What the lists are decoded to; as esp_sae_decode.
   *
   * @param keep rows that become those of x; NULL for none
   * @param out {@code [tokens, dOut]}
   */
  void decode(Kernels k, MemorySegment keep, MemorySegment x, MemorySegment out) {
    decodeEverybodys(k);
    for (long t = 0; t < tokens; t++) {
      if (isKept(keep, t)) {
        long at = t * outputs * Float.BYTES;
        MemorySegment.copy(x, at, out, at, outputs * Float.BYTES);
      } else {
        forward.copyRow(t, out);
      }
    }
  }

  private static boolean isKept(MemorySegment keep, long token) {
    return !keep.equals(MemorySegment.NULL) && keep.get(ValueLayout.JAVA_BYTE, token) != 0;
  }

  private void decodeEverybodys(Kernels k) {
    int own = ranks.rank();
    whole.count(own).copyFrom(latents.count());
    whole.index(own).copyFrom(latents.index());
    whole.value(own).copyFrom(latents.value());
    ranks.collect(whole.memory(), size * whole.floats(), whole.floats());
    for (int b = 0; b < size; b++) {
      k.saeDecode(
          whole.index(b),
          whole.value(b),
          whole.count(b),
          whole.capacity(),
          sae.wDec().matrix().data(),
          shard.bias().data(),
          MemorySegment.NULL,
          MemorySegment.NULL,
          forward.of(b),
          tokens,
          forward.own);
    }
    forward.send();
  }

  /** This rank's part in a forward pass of the others. */
  void join(Kernels k) {
    MemorySegment own = block(input.data(), ranks.rank(), inputFloats());
    own.fill((byte) 0);
    own.asSlice(tokens * inputs * Float.BYTES).fill((byte) 1); // no token is encoded
    encodeEverybodys(k);
    decodeEverybodys(k);
  }

  /**
   * Gradients of the values of this rank's lists; as esp_sae_decode_backward.
   *
   * @param dOut {@code [tokens, dOut]}
   */
  void decodeBackward(Kernels k, MemorySegment dOut) {
    long floats = tokens * outputs;
    block(dOutput.data(), ranks.rank(), floats).copyFrom(dOut.asSlice(0, floats * Float.BYTES));
    ranks.collect(dOutput.data(), dOutput.size(), floats);
    for (int b = 0; b < size; b++) {
      listOwnPart(b);
      k.saeDecodeBackward(
          block(dOutput.data(), b, floats),
          ownPart.index(b),
          ownPart.count(b),
          ownPart.capacity(),
          shard.backward().decoderRows().data(),
          ownPart.value(b),
          tokens,
          outputs);
    }
    ranks.exchange(
        ownPart.memory(), ownReturned.memory(), size * ownPart.floats(), ownPart.floats());
    joinGradients();
  }

  /** Of a rank's merged lists, the entries of this rank's latents: they are one after another. */
  private void listOwnPart(int block) {
    long first = shard.firstLatent();
    long end = first + shard.latents();
    MemorySegment count = whole.count(block);
    MemorySegment index = whole.index(block);
    MemorySegment ownIndex = ownPart.index(block);
    for (long t = 0; t < tokens; t++) {
      long at = t * whole.capacity();
      int own = 0;
      for (int j = 0; j < count.getAtIndex(INT, t); j++) {
        int latent = index.getAtIndex(INT, at + j);
        if (latent >= first && latent < end) {
          ownIndex.setAtIndex(INT, at + own++, (int) (latent - first));
        }
      }
      ownPart.count(block).setAtIndex(INT, t, own);
    }
  }

  /** Ranks' gradients one after another are those of the whole list. */
  private void joinGradients() {
    MemorySegment gradient = latents.gradient();
    for (long t = 0; t < tokens; t++) {
      long at = t * ownReturned.capacity();
      long next = at;
      for (int r = 0; r < size; r++) {
        int entries = ownReturned.count(r).getAtIndex(INT, t);
        MemorySegment.copy(
            ownReturned.value(r),
            at * Float.BYTES,
            gradient,
            next * Float.BYTES,
            (long) entries * Float.BYTES);
        next += entries;
      }
    }
  }

  /**
   * The gradient of the input, from those of z; as esp_sae_encode_backward without accumulation.
   *
   * @param keep rows whose gradient is that of the output, dOut; NULL for none
   * @param dX {@code [tokens, dIn]}
   */
  void encodeBackward(Kernels k, MemorySegment keep, MemorySegment dOut, MemorySegment dX) {
    long floats = tokens * whole.capacity();
    block(dPre, ranks.rank(), floats).copyFrom(latents.gradient());
    ranks.collect(dPre, size * floats, floats);
    for (int b = 0; b < size; b++) {
      k.saeEncodeBackward(
          block(dPre, b, floats),
          whole.index(b),
          whole.count(b),
          whole.capacity(),
          shard.backward().encoderColumns().data(),
          MemorySegment.NULL,
          MemorySegment.NULL,
          backward.of(b),
          false,
          tokens,
          backward.own);
    }
    backward.send();
    for (long t = 0; t < tokens; t++) {
      if (isKept(keep, t)) {
        for (long c = t * inputs; c < (t + 1) * inputs; c++) { // 0 + -0 is 0, as the kernel has it
          dX.setAtIndex(FLOAT, c, 0f + dOut.getAtIndex(FLOAT, c));
        }
      } else {
        backward.copyRow(t, dX);
      }
    }
  }
}
