package espalier.train;

/** How the learning rate changes over a run, after a linear warm-up. */
public enum Schedule {
  CONSTANT,
  LINEAR,
  COSINE;

  /**
   * Factor on the peak learning rate for one update.
   *
   * @param step counted from 0
   * @param steps of the whole run
   * @param warmup updates that rise linearly to the peak, which update {@code warmup - 1} reaches
   * @return in (0, 1]; linear and cosine come down to 0 where the run ends
   */
  public double factor(long step, long steps, long warmup) {
    if (step < warmup) {
      return (step + 1) / (double) warmup;
    }
    double progress = (step - warmup) / (double) Math.max(1, steps - warmup);
    return switch (this) {
      case CONSTANT -> 1;
      case LINEAR -> 1 - progress;
      case COSINE -> 0.5 * (1 + Math.cos(Math.PI * progress));
    };
  }
}
