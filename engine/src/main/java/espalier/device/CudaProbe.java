package espalier.device;

import espalier.bindings.Availability;
import espalier.bindings.NativeLibraries;
import espalier.bindings.cudart.CudaRuntime;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;

/** Whether this machine has an NVIDIA GPU that could be used, and if not, in whose words. */
public final class CudaProbe {

  private static final Path DRIVER = Path.of("/proc/driver/nvidia");

  private CudaProbe() {}

  /**
   * @param gpus how many can be used; 0 with a reason
   * @param reason why none can; empty where one can
   */
  public record Result(int gpus, String reason) {}

  /** Without loading anything where there is no driver. */
  public static Result quick() {
    return Files.exists(DRIVER) ? thorough() : new Result(0, "no NVIDIA driver is loaded");
  }

  /** Asks CUDA itself. */
  public static Result thorough() {
    if (NativeLibraries.cudaRuntime() instanceof Availability.Unavailable missing) {
      return new Result(0, missing.reason());
    }
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment count = arena.allocate(ValueLayout.JAVA_INT);
      int status = CudaRuntime.cudaGetDeviceCount(count);
      if (status != CudaRuntime.cudaSuccess()) {
        return new Result(0, CudaRuntime.cudaGetErrorString(status).getString(0));
      }
      int gpus = count.get(ValueLayout.JAVA_INT, 0);
      return new Result(gpus, gpus == 0 ? "CUDA finds no device" : "");
    }
  }
}
