package espalier.format;

import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.OptionalInt;
import java.util.OptionalLong;

/**
 * A sparse autoencoder as read from files, whatever their format: tensors still mapped, everything
 * else understood.
 *
 * @param format what the files were taken for, such as {@code SAELens 6}
 * @param architecture how latents become active
 * @param dIn width of the activations
 * @param dSae number of latents
 * @param wEnc {@code [dIn, dSae]}, or {@code [dSae, dIn]} if {@code encoderRowsAreLatents}
 * @param wDec {@code [dSae, dIn]}
 * @param threshold {@code [dSae]} for JumpReLU, else null
 * @param k of TopK
 * @param subtractDecoderBias whether b_dec is taken off the input
 * @param rankByDecoderNorm whether TopK ranks z times the norm of the latent's decoder row
 * @param hook the site as the files name it; empty if they do not
 * @param layer the block whose output it belongs to, if the hook says so
 * @param warnings what is odd but can be used
 */
public record SaeWeights(
    Path path,
    String format,
    Architecture architecture,
    long dIn,
    long dSae,
    TensorEntry wEnc,
    boolean encoderRowsAreLatents,
    TensorEntry bEnc,
    TensorEntry wDec,
    TensorEntry bDec,
    TensorEntry threshold,
    OptionalLong k,
    boolean subtractDecoderBias,
    boolean rankByDecoderNorm,
    String hook,
    OptionalInt layer,
    List<String> warnings) {

  /** Under the names that SAELens gives them. */
  public enum Architecture {
    STANDARD,
    JUMPRELU,
    TOPK;

    public String label() {
      return name().toLowerCase(Locale.ROOT);
    }
  }
}
