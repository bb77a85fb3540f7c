package espalier.recipe.reproduce;

import espalier.format.InputException;
import java.util.Arrays;
import java.util.Locale;
import java.util.stream.Collectors;

/** A comparison of the paper's (Chen, Engels and Tegmark 2025). */
public enum Experiment {
  /** Cross-entropy against training time: TopK SAE, then LoRA, against an end-to-end SAE. */
  TIMING,
  /** How much of the gap is closed around sparser and denser SAEs. */
  SPARSITY,
  /** Around narrower and wider SAEs. */
  WIDTH,
  /** Around SAEs at lower and higher layers. */
  LAYER,
  /** With adapters of lower and higher rank. */
  RANK,
  /** With adapters in a single layer. */
  PER_LAYER,
  /** Around several SAEs at once. */
  MULTI_SAE,
  /** LoRA beside other ways to win back what an SAE costs. */
  BASELINES;

  /** As it is called on the command line. */
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
