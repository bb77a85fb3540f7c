package espalier.cli;

import espalier.device.DeviceChoice;
import espalier.device.DeviceUnavailableException;
import espalier.device.ElementType;
import espalier.format.InputException;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
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
          "f32; bf16: weights and products, on a GPU or a CPU with AMX or AVX512-BF16, but not where"
              + " SAEs are trained: train-sae, demo, adapt --train sae or lora+sae, reproduce without"
              + " --sae (default: f32)")
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

  /**
   * The options with which another process computes likewise. {@code auto} is left out: a list of
   * commands may be made on a machine without the GPUs that they will run on.
   */
  List<String> options() {
    List<String> words = new ArrayList<>();
    if (device != Where.AUTO) {
      words.addAll(List.of("--device", device.name().toLowerCase(Locale.ROOT)));
    }
    if (dtype != ElementType.F32) {
      words.addAll(List.of("--dtype", dtype.label()));
    }
    return words;
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
