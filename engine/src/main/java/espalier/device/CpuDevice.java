package espalier.device;

import espalier.bindings.NativeLibraries;
import espalier.bindings.cblas.Cblas;
import java.lang.foreign.MemorySegment;

/**
 * The machine's processor. A kernel call returns when its work is done; pages of memory that are
 * never touched take no room.
 */
final class CpuDevice extends Device {

  private final HostMemory memory = new HostMemory();

  /** The libraries must be loaded. */
  CpuDevice() {
    super(ElementType.F32);
    // Kernels cut a product into tiles and run sgemm on each from their own threads: one pool of
    // threads for everything, and results that do not depend on how many there are.
    Cblas.openblas_set_num_threads(1);
    kernels().setGemm(NativeLibraries.sgemmAddress(), MemorySegment.NULL);
  }

  @Override
  public MemorySegment allocate(long bytes) {
    return memory.allocate(bytes);
  }

  @Override
  public MemorySegment allocateStaging(long bytes) {
    return memory.allocate(bytes).fill((byte) 0);
  }

  @Override
  public void upload(MemorySegment staging, MemorySegment target) {
    MemorySegment.copy(staging, 0, target, 0, staging.byteSize());
  }

  @Override
  public long allocatedBytes() {
    return memory.allocatedBytes();
  }

  @Override
  public void close() {
    memory.close();
  }
}
