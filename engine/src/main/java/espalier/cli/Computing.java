package espalier.cli;

import espalier.device.DeviceChoice;
import espalier.device.DeviceUnavailableException;
import espalier.device.ElementType;
import espalier.format.InputException;
import picocli.CommandLine.Option;

/** Options of every command that computes. */
final class Computing {

  enum Where {
    AUTO,
    CPU,
    CUDA
  }

  @Option(names = "--device", description = "auto, cpu or cuda (default: auto)")
  private Where device = Where.AUTO;

  @Option(
      names = "--dtype",
      description =
          "f32; bf16: weights and products, on a GPU or a CPU with AMX or AVX512-BF16 (default: f32)")
  private ElementType dtype = ElementType.F32;

  /** Chooses the device of this process; refuses what cannot be done. */
  void check() {
    try {
      DeviceChoice.choose(chosen());
    } catch (DeviceUnavailableException e) {
      String option = device == Where.CUDA ? "--device cuda" : "--dtype bf16";
      throw new InputException(option + ": " + e.getMessage());
    }
  }

  private DeviceChoice chosen() {
    return switch (device) {
      case AUTO ->
          DeviceChoice.byProperty()
              .map(set -> dtype == ElementType.F32 ? set : set.of(dtype))
              .orElseGet(() -> DeviceChoice.auto(dtype));
      case CPU -> DeviceChoice.cpu(dtype);
      case CUDA -> DeviceChoice.cuda(dtype);
    };
  }
}
