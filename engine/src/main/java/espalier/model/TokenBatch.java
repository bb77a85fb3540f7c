package espalier.model;

import espalier.device.Device;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Set;

/**
 * The tokens of one batch in device memory, and what follows from them.
 *
 * <p>A step copies nothing else to the device. The memory stays where it is from batch to batch, so
 * recorded operations may refer to it.
 */
public final class TokenBatch {

  private final int batch;
  private final int seqLen;
  private final Set<Integer> special;
  private final MemorySegment ids;
  private final MemorySegment targets;
  private final MemorySegment keep;

  /**
   * @param special ids whose positions keep their true activations (BOS and EOS)
   */
  public TokenBatch(Device device, int batch, int seqLen, Set<Integer> special) {
    this.batch = batch;
    this.seqLen = seqLen;
    this.special = Set.copyOf(special);
    ids = device.allocate(tokens() * Integer.BYTES);
    targets = device.allocate(tokens() * Integer.BYTES);
    keep = device.allocate(tokens());
  }

  /** Overwrites sequence {@code at} of the batch with {@code seqLen} ids. */
  public void set(int at, int[] row) {
    if (row.length != seqLen) {
      throw new IllegalArgumentException("a row of " + row.length + " ids, not " + seqLen);
    }
    long first = (long) at * seqLen;
    for (int i = 0; i < seqLen; i++) {
      ids.setAtIndex(ValueLayout.JAVA_INT, first + i, row[i]);
      targets.setAtIndex(ValueLayout.JAVA_INT, first + i, i + 1 < seqLen ? row[i + 1] : -1);
      keep.set(ValueLayout.JAVA_BYTE, first + i, (byte) (special.contains(row[i]) ? 1 : 0));
    }
  }

  public int batch() {
    return batch;
  }

  public int seqLen() {
    return seqLen;
  }

  public long tokens() {
    return (long) batch * seqLen;
  }

  /** Positions that have a next token. */
  public long predictions() {
    return (long) batch * (seqLen - 1);
  }

  /** Whether SAEs leave this position alone: BOS or EOS. */
  public boolean isSpecial(long token) {
    return keep.get(ValueLayout.JAVA_BYTE, token) != 0;
  }

  /** Whether this position has a next token. */
  public boolean predicts(long token) {
    return targets.getAtIndex(ValueLayout.JAVA_INT, token) >= 0;
  }

  /** int32 {@code [tokens]}. */
  public MemorySegment ids() {
    return ids;
  }

  /** int32 {@code [tokens]}: the next token, -1 at the end of a sequence. */
  public MemorySegment targets() {
    return targets;
  }

  /** Bytes {@code [tokens]}: 1 at special positions. */
  public MemorySegment keep() {
    return keep;
  }
}
