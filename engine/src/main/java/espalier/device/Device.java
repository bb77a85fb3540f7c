package espalier.device;

import espalier.bindings.NativeLibraries;
import espalier.bindings.cblas.Cblas;
import java.lang.foreign.MemorySegment;

/**
 * The machine's processor as a compute device: its memory and its kernels.
 *
 * <p>All memory is freed when the device is closed; nothing is freed before, as a job plans its
 * memory once and then keeps it. A kernel call returns when its work is done.
 */
public final class Device implements AutoCloseable {

  private final HostMemory memory = new HostMemory();
  private final Kernels kernels;

  private Device(Kernels kernels) {
    this.kernels = kernels;
  }

  /**
   * @throws espalier.bindings.NativeUnavailableException if a native library cannot be loaded
   */
  public static Device openCpu() {
    NativeLibraries.require();
    // Kernels cut a product into tiles and run sgemm on each from their own threads: one pool of
    // threads for everything,
    // and results that do not depend on how many there are.
    Cblas.openblas_set_num_threads(1);
    Kernels kernels = new Kernels();
    kernels.setSgemm(NativeLibraries.sgemmAddress());
    return new Device(kernels);
  }

  /** What OpenBLAS says of its build and of the kernels it has chosen for this processor. */
  public static String openBlas() {
    NativeLibraries.require();
    return Cblas.openblas_get_config().getString(0).strip()
        + ", kernels for "
        + Cblas.openblas_get_corename().getString(0);
  }

  public Kernels kernels() {
    return kernels;
  }

  /**
   * Memory of undefined content, aligned to 64 bytes. Pages that are never touched take no room.
   *
   * @throws OutOfMemoryError naming what was asked for and what is in use
   */
  public MemorySegment allocate(long bytes) {
    return memory.allocate(bytes);
  }

  /** Bytes handed out so far. */
  public long allocatedBytes() {
    return memory.allocatedBytes();
  }

  @Override
  public void close() {
    memory.close();
  }
}
