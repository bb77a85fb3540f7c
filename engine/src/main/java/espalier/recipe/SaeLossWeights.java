package espalier.recipe;

/**
 * Coefficients of an SAE's losses; the main loss has 1.
 *
 * @param l1 of the sum of latents (standard) or of gates (gated)
 * @param l0 of a JumpReLU SAE's distance from its target
 * @param sparsityWarmup steps over which both rise from 0
 * @param auxiliary of the auxiliary loss of dead latents
 * @param auxiliaryLatents the most dead latents that it uses for a token; 0 for half the width
 * @param kl of the KL in {@link SaeLoss#E2E_DOWNSTREAM}
 * @param downstream of the errors of later streams there, divided by the variance of what the SAE
 *     reads
 */
public record SaeLossWeights(
    double l1,
    double l0,
    int sparsityWarmup,
    double auxiliary,
    int auxiliaryLatents,
    double kl,
    double downstream) {

  /** Auxiliary as Gao et al. 2024 have it, KL and downstream as Braun et al. 2024 for GPT-2. */
  public static final SaeLossWeights DEFAULTS =
      new SaeLossWeights(0.01, 1, 0, 1.0 / 32, 0, 0.5, 2.5);

  public SaeLossWeights {
    Require.notNegative("--l1", l1);
    Require.notNegative("--l0-weight", l0);
    Require.atLeast("--sparsity-warmup", sparsityWarmup, 0);
    Require.notNegative("--aux-weight", auxiliary);
    Require.atLeast("--aux-k", auxiliaryLatents, 0);
    Require.positive("--kl-weight", kl);
    Require.notNegative("--downstream-weight", downstream);
  }

  SaeLossWeights withL1(double value) {
    return new SaeLossWeights(
        value, l0, sparsityWarmup, auxiliary, auxiliaryLatents, kl, downstream);
  }
}
