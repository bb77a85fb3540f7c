package espalier.sae;

import espalier.device.Device;
import espalier.format.SaeLensWriter;
import java.nio.file.Path;

/** Writes SAEs in the layout of SAELens 6. */
public final class SaeWriter {

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
            sae.kind().activation(),
            SaeLoader.transposed(device, sae.wEnc().value()),
            sae.bEnc().value(),
            sae.wDec().value(),
            sae.bDec().value(),
            sae.threshold() == null ? null : sae.threshold().value(),
            sae.k(),
            sae.subtractDecoderBias(),
            "blocks." + layer + ".hook_resid_post",
            modelName,
            contextSize,
            hasBos));
  }
}
