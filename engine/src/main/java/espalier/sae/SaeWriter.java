package espalier.sae;

import espalier.autograd.Parameter;
import espalier.device.Device;
import espalier.format.SaeLensWriter;
import espalier.format.SaeWeights.Activation;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;

/** Writes SAEs in the layout of SAELens 6. */
public final class SaeWriter {

  private static final int F32 = 0; // of esp_dtype

  /**
   * What an SAE belongs to.
   *
   * @param layer the block whose output it is for
   * @param contextSize tokens of the sequences it was trained on
   * @param hasBos whether these begin with BOS
   */
  public record Origin(int layer, String modelName, int contextSize, boolean hasBos) {}

  private SaeWriter() {}

  /**
   * Writes a frozen SAE over activations as they are.
   *
   * @throws IllegalArgumentException if it subtracts another vector from its input than it adds to
   *     its output: the layout has no place for that
   */
  public static void write(Device device, Sae sae, Path folder, Origin origin) {
    if (sae.bPre() != null && !sae.subtractsDecoderBias()) {
      throw new IllegalArgumentException("SAELens has no bias of the input alone");
    }
    write(device, sae, null, folder, origin);
  }

  /**
   * Writes an SAE in training as it stands: a gated one with its gates, others as {@code folded}.
   */
  public static void write(
      Device device, TrainableSae trainable, Sae folded, Path folder, Origin origin) {
    if (trainable.gates() == null) {
      write(device, folded, folder, origin);
      return;
    }
    Tensor encoder = Tensor.allocate(device, folded.latents(), folded.inputs());
    device.kernels().fill(encoder.data(), 0, encoder.size());
    device
        .kernels()
        .axpy(1 / trainable.scale(), trainable.sae().wEnc().data(), encoder.data(), encoder.size());
    Sae ungated =
        Sae.plain(
            Activation.RELU,
            0,
            Parameter.frozen("W_enc", encoder),
            trainable.sae().bEnc().frozen(),
            folded.wDec(),
            folded.bDec(),
            null,
            folded.subtractsDecoderBias());
    SaeLensWriter.Gates gates =
        new SaeLensWriter.Gates(
            trainable.sae().bEnc().value(),
            trainable.gates().rMag().value(),
            trainable.gates().bMag().value());
    write(device, ungated, gates, folder, origin);
  }

  private static void write(
      Device device, Sae sae, SaeLensWriter.Gates gates, Path folder, Origin origin) {
    SaeLensWriter.write(
        folder,
        new SaeLensWriter.Output(
            sae.activation(),
            transposed(device, sae.wEnc().value()),
            sae.bEnc().value(),
            sae.wDec().value(),
            sae.bDec().value(),
            sae.threshold() == null ? null : sae.threshold().value(),
            gates,
            sae.k(),
            sae.subtractsDecoderBias(),
            "blocks." + origin.layer + ".hook_resid_post",
            origin.modelName,
            origin.contextSize,
            origin.hasBos));
  }

  /** SAELens stores encoders {@code [dIn, dSae]}. */
  private static Tensor transposed(Device device, Tensor from) {
    Tensor to = Tensor.allocate(device, from.cols(), from.rows());
    device
        .kernels()
        .convertMatrix(
            from.data(),
            F32,
            true,
            MemorySegment.NULL,
            to.data(),
            to.cols(),
            to.rows(),
            to.cols(),
            to.type());
    return to;
  }
}
