package espalier.device;

import espalier.bindings.NativeLibraries;
import espalier.bindings.cblas.Cblas;
import java.lang.foreign.MemorySegment;

/**
 * Where tensors live and kernels run. A process uses one device.
 *
 * <p>All memory is freed when the device is closed; nothing is freed before, as a job plans its
 * memory once and then keeps it.
 */
public abstract sealed class Device implements AutoCloseable permits CpuDevice {

  private final ElementType type;
  private final Kernels kernels;

  Device(ElementType type) {
    this.type = type;
    kernels = new Kernels(type);
  }

  /**
   * The machine's processor, in float32.
   *
   * @throws espalier.bindings.NativeUnavailableException if a native library cannot be loaded
   */
  public static Device openCpu() {
    NativeLibraries.require();
    return new CpuDevice();
  }

  /** What OpenBLAS says of its build and of the kernels it has chosen for this processor. */
  public static String openBlas() {
    NativeLibraries.require();
    return Cblas.openblas_get_config().getString(0).strip()
        + ", kernels for "
        + Cblas.openblas_get_corename().getString(0);
  }

  /** Of activations and of matrices of weights. */
  public final ElementType type() {
    return type;
  }

  public final Kernels kernels() {
    return kernels;
  }

  /** The same kernels for activations and weights of another type than the device's own. */
  public final Kernels kernels(ElementType other) {
    return other == type ? kernels : new Kernels(other);
  }

  /**
   * Memory of undefined content, aligned to 64 bytes.
   *
   * @throws OutOfMemoryError naming what was asked for and what is in use
   */
  public abstract MemorySegment allocate(long bytes);

  /** Memory of the host, zero, from which {@link #upload} copies without waiting. */
  public abstract MemorySegment allocateStaging(long bytes);

  /**
   * Queues a copy from the host to the device. What is copied must not change before the device is
   * done: see {@link Transfer}, which waits.
   */
  public abstract void upload(MemorySegment staging, MemorySegment target);

  /** Bytes of device memory handed out so far. */
  public abstract long allocatedBytes();

  @Override
  public abstract void close();
}
