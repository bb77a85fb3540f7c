package espalier.recipe;

import espalier.format.InputException;

/** What an SAE is trained for, with its name on the command line. */
public enum SaeLoss {
  /** Its reconstruction error alone. */
  MSE("mse"),
  /** KL(original || spliced) through the rest of the model (Braun et al. 2024). */
  E2E("e2e"),
  /** The KL, and the squared error of all later residual streams (the same paper). */
  E2E_DOWNSTREAM("e2e+ds"),
  /** KL and reconstruction error in balance, to finish an SAE (Karvonen 2025, arXiv 2503.17272). */
  KL_FINETUNE("kl-finetune");

  private final String label;

  SaeLoss(String label) {
    this.label = label;
  }

  public static SaeLoss parse(String text) {
    for (SaeLoss loss : values()) {
      if (loss.label.equals(text)) {
        return loss;
      }
    }
    throw new InputException(
        "--objective " + text + ": supported are mse, e2e, e2e+ds and kl-finetune");
  }

  /** Whether it goes through the rest of the model. */
  boolean hasKl() {
    return this != MSE;
  }

  boolean hasReconstruction() {
    return this == MSE || this == KL_FINETUNE;
  }

  @Override
  public String toString() {
    return label;
  }
}
