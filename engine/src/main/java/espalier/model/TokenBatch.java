package espalier.model;

import espalier.device.Device;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Set;

/**
 * The tokens of one batch in device memory, with the next tokens and the special positions.
 *
 * <p>The memory stays in its place from batch to batch, so recorded operations may refer to it. The
 * host prepares the batches of a step in slots of its own memory, one slot for each batch, and
 * {@link #upload} copies a slot to the device.
 */
public final class TokenBatch {

  private final Device device;
  private final int batch;
  private final int seqLen;
  private final int[] special;
  private final byte[] keeps; // of the row that is prepared; allocated once
  private final MemorySegment host; // [slots], each laid out as data
  private final MemorySegment data; // on the device: ids, then targets, then keep
  private int slot; // the one that data is a copy of

  /**
   * @param special ids whose positions keep their true activations (BOS and EOS)
   */
  public TokenBatch(Device device, int batch, int seqLen, Set<Integer> special) {
    this(device, batch, seqLen, special, 1);
  }

  /**
   * @param special ids at whose positions SAEs are not applied (BOS and EOS)
   * @param slots how many batches the host can prepare before they are needed
   */
  public TokenBatch(Device device, int batch, int seqLen, Set<Integer> special, int slots) {
    this.device = device;
    this.batch = batch;
    this.seqLen = seqLen;
    this.special = special.stream().mapToInt(Integer::intValue).toArray();
    keeps = new byte[seqLen];
    data = device.allocate(slotBytes());
    host = device.allocateStaging(slots * slotBytes());
  }

  /** The size of a slot. It is a multiple of 4, so that the integers of every slot are aligned. */
  private long slotBytes() {
    return (keepOffset() + tokens() + 3) / 4 * 4;
  }

  private long targetsOffset() {
    return tokens() * Integer.BYTES;
  }

  private long keepOffset() {
    return 2 * tokens() * Integer.BYTES;
  }

  /** Overwrites sequence {@code at} of a slot with {@code seqLen} ids. */
  public void prepare(int slot, int at, int[] row) {
    if (row.length != seqLen) {
      throw new IllegalArgumentException("a row of " + row.length + " ids, not " + seqLen);
    }
    for (int i = 0; i < seqLen; i++) {
      byte keep = 0;
      for (int id : special) {
        if (row[i] == id) {
          keep = 1;
        }
      }
      keeps[i] = keep;
    }
    long first = slot * slotBytes();
    long ids = first + (long) at * seqLen * Integer.BYTES;
    long targets = ids + targetsOffset();
    long keep = first + keepOffset() + (long) at * seqLen;
    int last = seqLen - 1;
    MemorySegment.copy(row, 0, host, ValueLayout.JAVA_INT, ids, seqLen);
    MemorySegment.copy(row, 1, host, ValueLayout.JAVA_INT, targets, last);
    host.set(ValueLayout.JAVA_INT, targets + (long) last * Integer.BYTES, -1);
    MemorySegment.copy(keeps, 0, host, ValueLayout.JAVA_BYTE, keep, seqLen);
  }

  /** Queues the copy of a slot to the device. This batch is then what the slot holds. */
  public void upload(int slot) {
    device.upload(host.asSlice(slot * slotBytes(), slotBytes()), data);
    this.slot = slot;
  }

  /** Overwrites sequence {@code at} of the batch with {@code seqLen} ids, on the device too. */
  public void set(int at, int[] row) {
    prepare(0, at, row);
    Transfer.copy(host.asSlice(0, slotBytes()), data);
    slot = 0;
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

  /** How many positions have a next token. */
  public long predictions() {
    return (long) batch * (seqLen - 1);
  }

  /** Whether SAEs leave this position alone: BOS or EOS. */
  public boolean isSpecial(long token) {
    return host.get(ValueLayout.JAVA_BYTE, slot * slotBytes() + keepOffset() + token) != 0;
  }

  /** Whether this position has a next token. */
  public boolean predicts(long token) {
    long at = slot * slotBytes() + targetsOffset() + token * Integer.BYTES;
    return host.get(ValueLayout.JAVA_INT, at) >= 0;
  }

  /** The ids, int32 {@code [tokens]}. */
  public MemorySegment ids() {
    return data.asSlice(0, targetsOffset());
  }

  /** The next tokens, int32 {@code [tokens]}; -1 at the end of a sequence. */
  public MemorySegment targets() {
    return data.asSlice(targetsOffset(), targetsOffset());
  }

  /** Bytes {@code [tokens]}: 1 at special positions, else 0. */
  public MemorySegment keep() {
    return data.asSlice(keepOffset(), tokens());
  }
}
