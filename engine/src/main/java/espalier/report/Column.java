package espalier.report;

import java.util.Locale;

/**
 * A column of a table of numbers. Its name in lower case is the name of the field in metrics and
 * results.
 */
enum Column {
  CE_BASE("CE base", "nats/token", "%.4f"),
  CE_SAE("CE with SAE", "nats/token", "%.4f"),
  CE_ADAPTED("CE adapted", "nats/token", "%.4f"),
  GAP_CLOSED("gap closed", "of CE", "%.1f %%", 100),
  KL_SAE("KL with SAE", "nats/token", "%.4f"),
  KL_ADAPTED("KL adapted", "nats/token", "%.4f"),
  CE_LOSS_SCORE("loss recovered", "of CE", "%.1f %%", 100),
  KL_DIV_SCORE("KL score", "of KL", "%.1f %%", 100),
  L0("L0", "latents/token", "%,.1f"),
  FVU("FVU", "of variance", "%.3f"),
  EXPLAINED_VARIANCE("explained", "of variance", "%.3f"),
  COSINE("cosine", "mean", "%.3f"),
  L2_RATIO("|y| / |x|", "mean", "%.3f"),
  RELATIVE_RECONSTRUCTION_BIAS("bias", "|y|² / x·y", "%.3f"),
  DEAD("dead", "of latents", "%.1f %%", 100),
  STEPS("steps", "", "%,.0f"),
  TOKENS("tokens", "", "%,.0f"),
  SECONDS("training", "s", "%,.1f"),
  TOKENS_PER_SECOND("speed, median", "tokens/s", "%,.0f"),
  /** The time of a stage from its start to its end, evaluation included. */
  STAGE_SECONDS("from start to end", "s", "%,.1f");

  final String field = name().toLowerCase(Locale.ROOT);
  final String heading;
  final String unit;
  private final String format;
  private final double factor;

  Column(String heading, String unit, String format) {
    this(heading, unit, format, 1);
  }

  Column(String heading, String unit, String format, double factor) {
    this.heading = heading;
    this.unit = unit;
    this.format = format;
    this.factor = factor;
  }

  /** A value as text, with the digits that mean something, and formatted alike in every locale. */
  String text(double value) {
    return String.format(Locale.ROOT, format, factor * value);
  }
}
