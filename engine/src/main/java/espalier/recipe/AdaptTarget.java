package espalier.recipe;

import espalier.format.InputException;

/** What {@code adapt} trains, with its name on the command line. */
public enum AdaptTarget {
  /** Low-rank adapters of the model around frozen SAEs (Chen, Engels and Tegmark 2025). */
  LORA("lora"),
  /** A linear map of low rank at each SAE's output. */
  LINEAR("linear"),
  /** An MLP of one hidden layer there. */
  MLP("mlp"),
  /** The SAEs themselves. */
  SAE("sae"),
  /** Low-rank adapters and the SAEs together. */
  LORA_AND_SAE("lora+sae");

  private final String label;

  AdaptTarget(String label) {
    this.label = label;
  }

  public static AdaptTarget parse(String text) {
    for (AdaptTarget target : values()) {
      if (target.label.equals(text)) {
        return target;
      }
    }
    throw new InputException(
        "--train " + text + ": supported are lora, linear, mlp, sae, lora+sae");
  }

  boolean hasLora() {
    return this == LORA || this == LORA_AND_SAE;
  }

  boolean hasSae() {
    return this == SAE || this == LORA_AND_SAE;
  }

  @Override
  public String toString() {
    return label;
  }
}
