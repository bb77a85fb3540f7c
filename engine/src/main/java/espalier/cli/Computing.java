package espalier.cli;

import espalier.device.CudaProbe;
import espalier.format.InputException;
import espalier.recipe.DeviceChoice;
import picocli.CommandLine.Option;

/** Options of every command that computes. */
final class Computing {

  /** Element types of weights and activations. */
  enum Precision {
    F32,
    BF16
  }

  @Option(names = "--device", description = "auto, cpu or cuda (default: auto)")
  private DeviceChoice device = DeviceChoice.AUTO;

  @Option(names = "--dtype", description = "f32; bf16 needs a GPU (default: f32)")
  private Precision dtype = Precision.F32;

  /** Refuses what this build cannot do. */
  void check() {
    if (device == DeviceChoice.CUDA) {
      CudaProbe.Result probe = CudaProbe.thorough();
      throw new InputException(
          "--device cuda: "
              + (probe.gpus() == 0
                  ? "no usable GPU: " + probe.reason()
                  : "this build runs on the CPU only, it has no CUDA kernels"));
    }
    if (dtype == Precision.BF16) {
      throw new InputException("--dtype bf16: the CPU computes in f32 only");
    }
  }
}
