package espalier.format;

import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.OptionalDouble;

/**
 * A sparse autoencoder as it was read from files of any format. The two matrices are still in the
 * file; everything else has been reduced to the terms of one formula.
 *
 * <p>Let x be the input, normalised as {@code normalisation} says. Then z = encoder (x - bPre) +
 * bEnc. A latent f is z if the activation keeps it, else 0. The output is y = f decoder + bDec. If
 * {@code restoresScale}, the normalisation is undone in y. Last, skip times the raw input is added.
 *
 * @param format what the files were taken for, such as {@code SAELens 6}
 * @param architecture the name that the format's own library has for it, such as {@code gated}
 * @param activation what the architecture was reduced to
 * @param dIn the width of the activations
 * @param dOut the width of the output; it is dIn except for transcoders
 * @param dSae the number of latents
 * @param encoder {@code [dSae, dIn]}
 * @param bEnc {@code [dSae]}
 * @param bPre {@code [dIn]}; null if nothing is subtracted from the input
 * @param decoder {@code [dSae, dOut]}
 * @param bDec {@code [dOut]}
 * @param threshold {@code [dSae]} and at least 0 for {@link Activation#JUMPRELU}, else null
 * @param k the latents of a token for {@link Activation#TOPK}, the groups for {@link
 *     Activation#GROUPMAX}, else 0
 * @param skip {@code [dOut, dIn]} or null
 * @param restoresScale whether the output is brought back to the scale of the input
 * @param hook the site as the files name it; empty if they do not
 * @param site what that name means, if it is understood
 * @param siteOut where the output of a transcoder belongs
 * @param expectedL0 active latents a token, if the files or their names say
 * @param folded what was folded into the weights
 * @param warnings what is odd but can be used
 */
public record SaeWeights(
    Path path,
    String format,
    String architecture,
    Activation activation,
    long dIn,
    long dOut,
    long dSae,
    Matrix encoder,
    float[] bEnc,
    float[] bPre,
    Matrix decoder,
    float[] bDec,
    float[] threshold,
    int k,
    Matrix skip,
    Normalisation normalisation,
    boolean restoresScale,
    String hook,
    Optional<SaeSite> site,
    Optional<SaeSite> siteOut,
    OptionalDouble expectedL0,
    List<String> folded,
    List<String> warnings) {

  /** Which z are kept. The order is that of esp_sae_kind. */
  public enum Activation {
    /** Those above 0. */
    RELU,
    /** Those above 0 and above the latent's threshold (Rajamanoharan et al. 2024). */
    JUMPRELU,
    /** The k largest of a token, as far as they are above 0 (Gao et al. 2024). */
    TOPK,
    /** The largest of each of k groups of neighbouring latents, if it is above 0. */
    GROUPMAX;

    /** Whether a token has at most k active latents. */
    public boolean isCounted() {
      return this == TOPK || this == GROUPMAX;
    }

    public String label() {
      return name().toLowerCase(Locale.ROOT);
    }
  }

  /**
   * What is done to each token's activations before encoding. The order is that of
   * esp_sae_normalisation.
   */
  public enum Normalisation {
    NONE,
    /** x sqrt(dIn) / |x|. */
    CONSTANT_NORM,
    /** (x - mean) / (std + 1e-5), std with dIn - 1 in its denominator. */
    LAYER_NORM;

    public String label() {
      return name().toLowerCase(Locale.ROOT).replace('_', ' ');
    }
  }

  /**
   * A matrix in a file.
   *
   * @param transposed whether the matrix's columns are the rows in the file
   * @param rowScale a factor for each row of the matrix, or null
   */
  public record Matrix(TensorEntry entry, boolean transposed, float[] rowScale) {}

  /** Whether it computes other activations than those that it reads. */
  public boolean isTranscoder() {
    return siteOut.isPresent();
  }
}
