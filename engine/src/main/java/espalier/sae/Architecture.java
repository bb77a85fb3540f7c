package espalier.sae;

import espalier.format.SaeWeights.Activation;

/**
 * The kinds of SAEs in training. When training is over, a batchwide one becomes a JumpReLU whose
 * threshold is the running one ({@link Activation#JUMPRELU}), and a gated one becomes a JumpReLU,
 * too.
 */
public enum Architecture {
  /** ReLU with an L1 penalty (Bricken et al. 2023). */
  STANDARD(Activation.RELU),
  /** Gates and magnitudes of their own (Rajamanoharan et al. 2024, arXiv 2404.16014). */
  GATED(Activation.RELU),
  /** Trained thresholds (Rajamanoharan et al. 2024, arXiv 2407.14435). */
  JUMPRELU(Activation.JUMPRELU),
  /** The k largest latents of each token (Gao et al. 2024). */
  TOPK(Activation.TOPK),
  /** The n k largest of n tokens together (Bussmann et al. 2024). */
  BATCHTOPK(Activation.TOPK),
  /** BatchTopK whose first latents reconstruct by themselves (Bussmann et al. 2025). */
  MATRYOSHKA(Activation.TOPK);

  private final Activation listed;

  Architecture(Activation listed) {
    this.listed = listed;
  }

  /** The activation that lists latents in training. */
  Activation listed() {
    return listed;
  }

  /** Whether the number of active latents is fixed for a batch, not for a token. */
  public boolean isBatchwide() {
    return this == BATCHTOPK || this == MATRYOSHKA;
  }

  /** Whether k says how many latents are active; of a JumpReLU it is a target. */
  public boolean isCounted() {
    return listed == Activation.TOPK;
  }

  /** Whether the loss has a term in the sum of latents. */
  public boolean hasL1() {
    return listed == Activation.RELU;
  }
}
