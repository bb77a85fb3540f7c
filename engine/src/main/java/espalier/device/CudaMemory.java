package espalier.device;

import espalier.bindings.cudart.CudaRuntime;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Memory of a GPU and pinned memory of the host, each block with what it is held for. Segments of
 * the GPU's memory have its addresses: the host must not read or write through them.
 */
final class CudaMemory implements AutoCloseable {

  private final List<MemorySegment> blocks = new ArrayList<>();
  private final List<MemorySegment> pinned = new ArrayList<>();
  private final Map<String, Long> holders = new LinkedHashMap<>();
  private String holder = "other";
  private long allocated;

  /** Names the purpose of what is allocated from now on. */
  void holder(String name) {
    holder = name;
  }

  MemorySegment allocate(long bytes) {
    return allocate(holder, bytes);
  }

  MemorySegment allocate(String name, long bytes) {
    if (bytes < 1) {
      throw new IllegalArgumentException("no memory of " + bytes + " bytes");
    }
    MemorySegment block = cudaMalloc(name, bytes);
    blocks.add(block);
    holders.merge(name, bytes, Long::sum);
    allocated += bytes;
    return block;
  }

  private MemorySegment cudaMalloc(String name, long bytes) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment pointer = arena.allocate(ValueLayout.ADDRESS);
      int status = CudaRuntime.cudaMalloc(pointer, bytes);
      if (status == CudaRuntime.cudaErrorMemoryAllocation()) {
        CudaRuntime.cudaGetLastError(); // or the next launch would be blamed for it
        throw outOfMemory(name, bytes);
      }
      CudaException.check("cudaMalloc of " + bytes + " bytes", status);
      return pointer.get(ValueLayout.ADDRESS, 0).reinterpret(bytes);
    }
  }

  /**
   * @throws CudaOutOfMemoryException if less is free
   */
  void require(String what, long bytes) {
    if (bytes > free()) {
      throw outOfMemory(what, bytes);
    }
  }

  private CudaOutOfMemoryException outOfMemory(String what, long bytes) {
    return new CudaOutOfMemoryException(what, bytes, free(), total(), holders);
  }

  /** Frees a block before the others, which must have been allocated under this name. */
  void free(String name, MemorySegment block) {
    blocks.removeIf(other -> other.address() == block.address());
    holders.merge(name, -block.byteSize(), Long::sum);
    allocated -= block.byteSize();
    CudaException.check("cudaFree", CudaRuntime.cudaFree(block));
  }

  /** Of the host, zero, page-locked: copies from and to it can be queued. */
  MemorySegment allocatePinned(long bytes) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment pointer = arena.allocate(ValueLayout.ADDRESS);
      CudaException.check(
          "cudaHostAlloc of " + bytes + " bytes",
          CudaRuntime.cudaHostAlloc(pointer, bytes, CudaRuntime.cudaHostAllocDefault()));
      MemorySegment block = pointer.get(ValueLayout.ADDRESS, 0).reinterpret(bytes);
      pinned.add(block);
      return block.fill((byte) 0);
    }
  }

  long allocatedBytes() {
    return allocated;
  }

  long free() {
    return info(0);
  }

  long total() {
    return info(1);
  }

  private static long info(int index) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment sizes = arena.allocate(ValueLayout.JAVA_LONG, 2);
      CudaException.check(
          "cudaMemGetInfo", CudaRuntime.cudaMemGetInfo(sizes, sizes.asSlice(Long.BYTES)));
      return sizes.getAtIndex(ValueLayout.JAVA_LONG, index);
    }
  }

  /**
   * Frees everything. After a fault of the GPU, CUDA refuses this, too, and frees all with the
   * process: so nothing is thrown.
   */
  @Override
  public void close() {
    blocks.forEach(CudaRuntime::cudaFree);
    pinned.forEach(CudaRuntime::cudaFreeHost);
    blocks.clear();
    pinned.clear();
    holders.clear();
  }
}
