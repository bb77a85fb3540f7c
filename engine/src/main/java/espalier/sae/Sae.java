package espalier.sae;

import espalier.autograd.Parameter;
import espalier.format.SaeSite;
import espalier.format.SaeWeights.Activation;
import espalier.format.SaeWeights.Normalisation;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.Objects;
import java.util.stream.Stream;

/**
 * A sparse autoencoder over activations of width d with m latents, or a transcoder, whose output
 * has a width of its own. Encoder and decoder both hold a latent a row, so that decoding and every
 * gradient read whole rows. {@link espalier.format.SaeWeights} has the formulas.
 *
 * @param site where in its block the activations are
 * @param activation which latents are active
 * @param k active latents of a token at most, where their number is fixed
 * @param wEnc {@code [m, dIn]}
 * @param bEnc {@code [1, m]}
 * @param bPre {@code [1, dIn]}, subtracted from the input before encoding; may be {@code bDec}
 *     itself; null where nothing is subtracted, or where {@code bEnc} contains it already
 * @param wDec {@code [m, dOut]}
 * @param bDec {@code [1, dOut]}
 * @param threshold {@code [1, m]} for {@link Activation#JUMPRELU}, else null
 * @param skip {@code [dOut, dIn]} of a skip connection: skip x is added to the output; null for
 *     none
 * @param normalisation of the input, each token by itself
 * @param restoresScale whether the output undoes the normalisation
 * @param shard null for a whole SAE; where ranks hold the SAE together, this rank's part: then
 *     {@code wEnc} has only the rows of the rank's own latents and {@code wDec} only its own
 *     columns, and everything else is whole
 */
public record Sae(
    SaeSite.Kind site,
    Activation activation,
    int k,
    Parameter wEnc,
    Parameter bEnc,
    Parameter bPre,
    Parameter wDec,
    Parameter bDec,
    Parameter threshold,
    Parameter skip,
    Normalisation normalisation,
    boolean restoresScale,
    Shard shard) {

  public Sae {
    long m = wDec.rows();
    long dOut = bDec.value().size();
    if ((activation == Activation.JUMPRELU) != (threshold != null)) {
      throw new IllegalArgumentException("a " + activation + " SAE with threshold " + threshold);
    }
    if (activation.isCounted() && (k < 1 || k > m)) {
      throw new IllegalArgumentException("k = " + k + " of " + m + " latents");
    }
    if (activation == Activation.GROUPMAX && m % k != 0) {
      throw new IllegalArgumentException(m + " latents do not make " + k + " equal groups");
    }
    if (wEnc.rows() != (shard == null ? m : shard.latents())
        || bEnc.value().size() != m
        || wDec.cols() != (shard == null ? dOut : shard.bias().cols())
        || (bPre != null && bPre.value().size() != wEnc.cols())
        || (skip != null && (skip.rows() != dOut || skip.cols() != wEnc.cols()))) {
      throw new IllegalArgumentException("the SAE's shapes disagree");
    }
    boolean plain = wEnc.cols() == dOut && skip == null && shard == null;
    if (wEnc.isTrainable() && !(plain && normalisation == Normalisation.NONE)) {
      throw new IllegalArgumentException("only plain SAEs are trained");
    }
  }

  /** A whole SAE. */
  public Sae(
      SaeSite.Kind site,
      Activation activation,
      int k,
      Parameter wEnc,
      Parameter bEnc,
      Parameter bPre,
      Parameter wDec,
      Parameter bDec,
      Parameter threshold,
      Parameter skip,
      Normalisation normalisation,
      boolean restoresScale) {
    this(
        site,
        activation,
        k,
        wEnc,
        bEnc,
        bPre,
        wDec,
        bDec,
        threshold,
        skip,
        normalisation,
        restoresScale,
        null);
  }

  /**
   * An SAE of the residual stream that only encodes and decodes.
   *
   * @param subtractsDecoderBias whether bDec is subtracted from the input before encoding
   */
  public static Sae plain(
      Activation activation,
      int k,
      Parameter wEnc,
      Parameter bEnc,
      Parameter wDec,
      Parameter bDec,
      Parameter threshold,
      boolean subtractsDecoderBias) {
    return new Sae(
        SaeSite.Kind.RESIDUAL,
        activation,
        k,
        wEnc,
        bEnc,
        subtractsDecoderBias ? bDec : null,
        wDec,
        bDec,
        threshold,
        null,
        Normalisation.NONE,
        false);
  }

  /** Width of the activations. */
  public long inputs() {
    return wEnc.cols();
  }

  /** Width of what it computes: that of its input, but for transcoders. */
  public long outputs() {
    return bDec.value().size();
  }

  /** m, the number of latents. */
  public long latents() {
    return wDec.rows();
  }

  public boolean isTrainable() {
    return wEnc.isTrainable();
  }

  /** Whether the bias that is subtracted from the input is the one that is added to the output. */
  public boolean subtractsDecoderBias() {
    return bPre != null && bPre == bDec;
  }

  boolean isNormalised() {
    return normalisation != Normalisation.NONE;
  }

  /** The same SAE, for passes that do not train it. */
  public Sae frozen() {
    Parameter bias = bDec.frozen();
    return new Sae(
        site,
        activation,
        k,
        wEnc.frozen(),
        bEnc.frozen(),
        subtractsDecoderBias() ? bias : frozen(bPre),
        wDec.frozen(),
        bias,
        frozen(threshold),
        frozen(skip),
        normalisation,
        restoresScale,
        shard);
  }

  /** Bytes of its weights in this process. */
  public long bytes() {
    long bytes = 0;
    for (Parameter parameter : parameters()) {
      bytes += parameter.value().size() * parameter.value().type().bytes();
    }
    return bytes + (shard == null ? 0 : shard.backwardSize() * wEnc.value().type().bytes());
  }

  /** {@code [1, dIn]} as kernels take it: NULL where nothing is taken off the input. */
  MemorySegment bPreData() {
    return bPre == null ? MemorySegment.NULL : bPre.data();
  }

  /** {@code [1, m]} as kernels take it: NULL where there is none. */
  MemorySegment thresholdData() {
    return threshold == null ? MemorySegment.NULL : threshold.data();
  }

  private static Parameter frozen(Parameter parameter) {
    return parameter == null ? null : parameter.frozen();
  }

  /** All weights that it has, each once. */
  public List<Parameter> parameters() {
    return Stream.of(wEnc, bEnc, wDec, bDec, threshold, subtractsDecoderBias() ? null : bPre, skip)
        .filter(Objects::nonNull)
        .toList();
  }
}
