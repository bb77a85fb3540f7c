package espalier.device;

import static espalier.bindings.kernels.Kernels.esp_has_products;

import espalier.bindings.NativeLibraries;
import espalier.bindings.NativeUnavailableException;
import java.util.Optional;

/**
 * Which device this process computes on, and in what type. It is chosen once: the native libraries
 * of two devices have the same names and cannot be loaded together.
 *
 * @param ordinal which GPU, as CUDA counts those that it sees
 * @param type of activations and of matrices of weights
 * @param reason why it is not a GPU; empty where it is one or none was asked for
 */
public record DeviceChoice(Kind kind, int ordinal, ElementType type, String reason) {

  public enum Kind {
    CPU,
    CUDA,
    /** CUDA's place taken by native/emulator, for tests. */
    EMULATOR
  }

  private static DeviceChoice current;

  /** The CPU, in float32, unless something else was chosen before. */
  public static synchronized DeviceChoice current() {
    if (current == null) {
      current = byProperty().orElse(cpu(ElementType.F32, "none was asked for"));
    }
    return current;
  }

  public static synchronized void choose(DeviceChoice choice) {
    current = choice;
  }

  /**
   * The choice of one of several processes of this machine: GPUs in turn, of those that it sees.
   *
   * @param localRank its number on the machine
   */
  public DeviceChoice of(int localRank) {
    if (kind != Kind.CUDA || localRank == 0) {
      return this;
    }
    return new DeviceChoice(kind, localRank % CudaProbe.thorough().gpus(), type, reason);
  }

  /**
   * The same device, computing in that type.
   *
   * @throws DeviceUnavailableException if it has no instructions for products of it
   */
  public DeviceChoice of(ElementType other) {
    if (other == type) {
      return this;
    }
    return kind == Kind.CPU ? cpu(other, reason) : new DeviceChoice(kind, ordinal, other, reason);
  }

  /**
   * The system properties {@code espalier.device} and {@code espalier.dtype}, which tests set. A
   * CPU computes in bfloat16 then even if it has no instructions for it.
   */
  public static Optional<DeviceChoice> byProperty() {
    ElementType type =
        System.getProperty("espalier.dtype", "f32").equals("bf16")
            ? ElementType.BF16
            : ElementType.F32;
    return switch (System.getProperty("espalier.device", "")) {
      case "" -> Optional.empty();
      case "cpu" -> Optional.of(new DeviceChoice(Kind.CPU, 0, type, ""));
      case "cuda" -> Optional.of(new DeviceChoice(Kind.CUDA, 0, type, ""));
      case "emulator" -> Optional.of(new DeviceChoice(Kind.EMULATOR, 0, type, ""));
      case String other ->
          throw new IllegalArgumentException("espalier.device=" + other + ": no such device");
    };
  }

  private static DeviceChoice cpu(ElementType type, String reason) {
    if (type != ElementType.F32) {
      NativeLibraries.require();
      if (esp_has_products(type.code()) == 0) {
        throw new DeviceUnavailableException(
            "this CPU has neither AMX nor AVX512-BF16, so bf16 would be slower than f32 on it");
      }
    }
    return new DeviceChoice(Kind.CPU, 0, type, reason);
  }

  /**
   * A GPU if there is one that can be used, else the CPU with the reason.
   *
   * @throws DeviceUnavailableException if neither computes in that type
   */
  public static DeviceChoice auto(ElementType type) {
    CudaProbe.Result probe = CudaProbe.quick();
    if (probe.gpus() == 0) {
      return withoutGpu(type, probe.reason());
    }
    try {
      NativeLibraries.requireCuda();
    } catch (NativeUnavailableException e) {
      return withoutGpu(type, e.getMessage());
    }
    return new DeviceChoice(Kind.CUDA, 0, type, "");
  }

  private static DeviceChoice withoutGpu(ElementType type, String reason) {
    try {
      return cpu(type, reason);
    } catch (DeviceUnavailableException e) {
      throw new DeviceUnavailableException(e.getMessage() + ", and no GPU can be used: " + reason);
    }
  }

  /**
   * The CPU, because it was asked for.
   *
   * @throws DeviceUnavailableException if it has no instructions for products of that type
   * @throws NativeUnavailableException if its library cannot be loaded, which is asked about
   *     bfloat16
   */
  public static DeviceChoice cpu(ElementType type) {
    return cpu(type, "--device cpu");
  }

  /**
   * A GPU.
   *
   * @throws DeviceUnavailableException that says why none can be used, in CUDA's own words
   */
  public static DeviceChoice cuda(ElementType type) {
    CudaProbe.Result probe = CudaProbe.thorough();
    if (probe.gpus() == 0) {
      throw new DeviceUnavailableException("no usable GPU: " + probe.reason());
    }
    try {
      NativeLibraries.requireCuda();
    } catch (NativeUnavailableException e) {
      throw new DeviceUnavailableException(e.getMessage());
    }
    return new DeviceChoice(Kind.CUDA, 0, type, "");
  }
}
