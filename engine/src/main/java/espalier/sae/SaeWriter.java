package espalier.sae;

import espalier.device.Device;
import espalier.format.SaeLensWriter;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;

/** Writes SAEs in the layout of SAELens 6. */
public final class SaeWriter {

  private static final int F32 = 0; // of esp_dtype

  private SaeWriter() {}

  /**
   * @param layer the block whose output the SAE belongs to
   * @param contextSize tokens of the sequences it was trained on
   */
  public static void write(
      Device device,
      Sae sae,
      Path folder,
      int layer,
      String modelName,
      int contextSize,
      boolean hasBos) {
    SaeLensWriter.write(
        folder,
        new SaeLensWriter.Output(
            sae.activation(),
            transposed(device, sae.wEnc().value()),
            sae.bEnc().value(),
            sae.wDec().value(),
            sae.bDec().value(),
            sae.threshold() == null ? null : sae.threshold().value(),
            sae.k(),
            sae.subtractsDecoderBias(),
            "blocks." + layer + ".hook_resid_post",
            modelName,
            contextSize,
            hasBos));
  }

  /** SAELens stores encoders {@code [dIn, dSae]}. */
  private static Tensor transposed(Device device, Tensor from) {
    Tensor to = Tensor.allocate(device, from.cols(), from.rows());
    device
        .kernels()
        .convertMatrix(
            from.data(), F32, true, MemorySegment.NULL, to.data(), to.rows(), to.cols(), to.type());
    return to;
  }
}
