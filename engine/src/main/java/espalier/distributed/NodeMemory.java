package espalier.distributed;

import java.lang.foreign.MemorySegment;

/**
 * Memory that the ranks of a machine share: one of them writes it, and all wait for that before
 * they read.
 *
 * @param bytes aligned to 64
 * @param isWriter whether this rank is the one that writes it
 * @param settling waits for all ranks to come to it
 */
public record NodeMemory(MemorySegment bytes, boolean isWriter, Runnable settling) {

  /** All ranks call it: afterwards all of them see what has been written. */
  public void settle() {
    settling.run();
  }
}
