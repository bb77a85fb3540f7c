package espalier.recipe.reproduce;

import espalier.format.InputException;
import java.util.Arrays;
import java.util.Locale;
import java.util.stream.Collectors;

/** A comparison that the paper makes (Chen, Engels and Tegmark 2025). */
public enum Experiment {
  /**
   * Cross-entropy against training time: a TopK SAE and then LoRA, compared with an end-to-end SAE.
   */
  TIMING,
  /** How much of the gap adapters close around sparser and denser SAEs. */
  SPARSITY,
  /** The same around narrower and wider SAEs. */
  WIDTH,
  /** The same around SAEs at lower and higher layers. */
  LAYER,
  /** The same with adapters of lower and higher rank. */
  RANK,
  /** The same with adapters in a single layer. */
  PER_LAYER,
  /** The same around several SAEs at once. */
  MULTI_SAE,
  /** LoRA compared with other ways to win back what an SAE costs. */
  BASELINES;

  /** Its name on the command line. */
  public String label() {
    return name().toLowerCase(Locale.ROOT).replace('_', '-');
  }

  public static Experiment parse(String text) {
    return Arrays.stream(values())
        .filter(experiment -> experiment.label().equals(text))
        .findFirst()
        .orElseThrow(
            () -> new InputException("EXPERIMENT " + text + ": expected one of " + labels()));
  }

  public static String labels() {
    return Arrays.stream(values()).map(Experiment::label).collect(Collectors.joining(", "));
  }
}
