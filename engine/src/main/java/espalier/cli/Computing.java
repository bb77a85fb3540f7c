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

  @Option(names = "--dtype", description = "f32; bf16 needs a GPU (default: f32)")
  private ElementType dtype = ElementType.F32;

  /** Chooses the device of this process; refuses what cannot be done. */
  void check() {
    DeviceChoice choice =
        device == Where.AUTO ? DeviceChoice.byProperty().orElseGet(this::chosen) : chosen();
    if (choice.kind() == DeviceChoice.Kind.CPU && dtype != ElementType.F32) {
      throw new InputException(
          "--dtype bf16: the CPU computes in f32 only"
              + (device == Where.AUTO ? ", and no GPU can be used: " + choice.reason() : ""));
    }
    DeviceChoice.choose(choice);
  }

  private DeviceChoice chosen() {
    try {
      return switch (device) {
        case AUTO -> DeviceChoice.auto(dtype);
        case CPU -> DeviceChoice.cpu();
        case CUDA -> DeviceChoice.cuda(dtype);
      };
    } catch (DeviceUnavailableException e) {
      throw new InputException("--device cuda: " + e.getMessage());
    }
  }
}
