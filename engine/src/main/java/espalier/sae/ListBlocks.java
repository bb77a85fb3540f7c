package espalier.sae;

import espalier.device.Device;
import java.lang.foreign.MemorySegment;

/**
 * Lists of latents for the tokens of every rank, a rank's one block that can be sent as a whole,
 * packed as esp_sae_merge reads it: count int32 {@code [tokens]}, then index int32 and value float
 * {@code [tokens, capacity]} as in {@link Latents}.
 *
 * @param memory of {@code blocks} blocks
 */
record ListBlocks(MemorySegment memory, int blocks, long tokens, long capacity) {

  static ListBlocks allocate(Device device, int blocks, long tokens, long capacity) {
    return new ListBlocks(
        device.allocate(blocks * floats(tokens, capacity) * Float.BYTES), blocks, tokens, capacity);
  }

  /** Floats of a block. */
  long floats() {
    return floats(tokens, capacity);
  }

  static long floats(long tokens, long capacity) {
    return tokens * (1 + 2 * capacity);
  }

  MemorySegment count(int block) {
    return part(block, 0, tokens);
  }

  MemorySegment index(int block) {
    return part(block, tokens, tokens * capacity);
  }

  MemorySegment value(int block) {
    return part(block, tokens * (1 + capacity), tokens * capacity);
  }

  private MemorySegment part(int block, long from, long length) {
    return memory.asSlice((block * floats() + from) * Float.BYTES, length * Float.BYTES);
  }
}
