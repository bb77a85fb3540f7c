package espalier.device;

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
      current = byProperty().orElse(cpu("none was asked for"));
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

  /** The system properties {@code espalier.device} and {@code espalier.dtype}, which tests set. */
  public static Optional<DeviceChoice> byProperty() {
    ElementType type =
        System.getProperty("espalier.dtype", "f32").equals("bf16")
            ? ElementType.BF16
            : ElementType.F32;
    return switch (System.getProperty("espalier.device", "")) {
      case "" -> Optional.empty();
      case "cpu" -> Optional.of(cpu(""));
      case "cuda" -> Optional.of(new DeviceChoice(Kind.CUDA, 0, type, ""));
      case "emulator" -> Optional.of(new DeviceChoice(Kind.EMULATOR, 0, type, ""));
      case String other ->
          throw new IllegalArgumentException("espalier.device=" + other + ": no such device");
    };
  }

  private static DeviceChoice cpu(String reason) {
    return new DeviceChoice(Kind.CPU, 0, ElementType.F32, reason);
  }

  /** A GPU if there is one that can be used, else the CPU with the reason. */
  public static DeviceChoice auto(ElementType type) {
    CudaProbe.Result probe = CudaProbe.quick();
    if (probe.gpus() == 0) {
      return cpu(probe.reason());
    }
    try {
      NativeLibraries.requireCuda();
      return new DeviceChoice(Kind.CUDA, 0, type, "");
    } catch (NativeUnavailableException e) {
      return cpu(e.getMessage());
    }
  }

  /** The CPU, because it was asked for. */
  public static DeviceChoice cpu() {
    return cpu("--device cpu");
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
