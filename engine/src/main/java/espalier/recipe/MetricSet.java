package espalier.recipe;

/** How much an evaluation measures. Each set includes those before it. */
public enum MetricSet {
  /** CE and KL of the model, and each SAE's reconstruction. */
  BASIC,
  /**
   * Loss recovered against zero ablation: two more passes for each SAE, or one for a single SAE.
   */
  CORE,
  /** Loss differences of single tokens, and how far activations are from the original's. */
  ALL;

  boolean includes(MetricSet other) {
    return compareTo(other) >= 0;
  }
}
