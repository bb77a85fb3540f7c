package espalier.distributed;

import java.lang.foreign.MemorySegment;

/**
 * Memory that the ranks of a machine have in common: one of them writes it, and all wait for that
 * before they read.
 */
public final class NodeMemory {

  private final MemorySegment bytes;
  private final boolean isWriter;
  private final Runnable settling;

  /**
   * @param settling waits for all ranks to come to it
   */
  NodeMemory(MemorySegment bytes, boolean isWriter, Runnable settling) {
    this.bytes = bytes;
    this.isWriter = isWriter;
    this.settling = settling;
  }

  /** Aligned to 64 bytes. */
  public MemorySegment bytes() {
    return bytes;
  }

  /** Whether this rank is the one that writes it. */
  public boolean isWriter() {
    return isWriter;
  }

  /** All ranks call it: afterwards all of them see what has been written. */
  public void settle() {
    settling.run();
  }
}
