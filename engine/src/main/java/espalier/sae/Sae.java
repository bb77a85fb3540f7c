package espalier.sae;

import espalier.autograd.Parameter;
import espalier.format.SaeWeights;
import java.util.List;
import java.util.stream.Stream;

/**
 * A sparse autoencoder over d-dimensional activations with m latents. Both matrices hold a latent a
 * row, so that decoding and every gradient read whole rows.
 *
 * @param kind how latents become active
 * @param k active latents of a token at most, for {@link Kind#TOPK}
 * @param wEnc {@code [m, d]}
 * @param bEnc {@code [1, m]}
 * @param wDec {@code [m, d]}
 * @param bDec {@code [1, d]}
 * @param threshold {@code [1, m]} for {@link Kind#JUMPRELU}, else null
 * @param subtractDecoderBias whether bDec is taken off the input before encoding
 */
public record Sae(
    Kind kind,
    int k,
    Parameter wEnc,
    Parameter bEnc,
    Parameter wDec,
    Parameter bDec,
    Parameter threshold,
    boolean subtractDecoderBias) {

  /** The values are those of esp_sae_kind. */
  public enum Kind {
    /** z where z &gt; 0. */
    RELU,
    /** z where z &gt; its threshold (Rajamanoharan et al. 2024). */
    JUMPRELU,
    /** The k largest z of a token, where positive (Gao et al. 2024). */
    TOPK;

    static Kind of(SaeWeights.Activation activation) {
      return valueOf(activation.name());
    }

    SaeWeights.Activation activation() {
      return SaeWeights.Activation.valueOf(name());
    }
  }

  public Sae {
    if ((kind == Kind.JUMPRELU) != (threshold != null)) {
      throw new IllegalArgumentException("a " + kind + " SAE with threshold " + threshold);
    }
    if (kind == Kind.TOPK && (k < 1 || k > wEnc.rows())) {
      throw new IllegalArgumentException("k = " + k + " of " + wEnc.rows() + " latents");
    }
    if (wDec.rows() != wEnc.rows()
        || wDec.cols() != wEnc.cols()
        || bEnc.value().size() != wEnc.rows()
        || bDec.value().size() != wEnc.cols()) {
      throw new IllegalArgumentException("the SAE's shapes disagree");
    }
  }

  /** d, the width of the activations. */
  public long inputs() {
    return wEnc.cols();
  }

  /** m, the number of latents. */
  public long latents() {
    return wEnc.rows();
  }

  public boolean isTrainable() {
    return wEnc.isTrainable();
  }

  /** Entries that a token's list must have room for. */
  long capacity() {
    return kind == Kind.TOPK ? k : latents();
  }

  /** The same SAE, for passes that do not train it. */
  public Sae frozen() {
    return new Sae(
        kind,
        k,
        wEnc.frozen(),
        bEnc.frozen(),
        wDec.frozen(),
        bDec.frozen(),
        threshold == null ? null : threshold.frozen(),
        subtractDecoderBias);
  }

  /** All weights that it has. */
  public List<Parameter> parameters() {
    return Stream.of(wEnc, bEnc, wDec, bDec, threshold).filter(p -> p != null).toList();
  }
}
