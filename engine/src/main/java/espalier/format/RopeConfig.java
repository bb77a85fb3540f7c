package espalier.format;

import java.util.Optional;

/**
 * Rotary positions: the base of the frequencies, and how the frequencies are changed for long
 * contexts.
 *
 * @param theta the base of the frequencies
 */
public record RopeConfig(double theta, Scaling scaling) {

  private static final String PART = "partial_rotary_factor";
  private static final String ORIGINAL = "original_max_position_embeddings";

  /** How frequencies differ from theta^(-2i/d). */
  public sealed interface Scaling {}

  /** They do not differ. */
  public record None() implements Scaling {}

  /** All are divided by a factor (Chen et al. 2023). */
  public record Linear(double factor) implements Scaling {}

  /**
   * As in Llama 3.1: the frequencies of long wavelengths are divided by a factor, those of short
   * ones are kept, and there is a ramp in between.
   */
  public record Llama3(
      double factor,
      double lowFrequencyFactor,
      double highFrequencyFactor,
      double originalPositions)
      implements Scaling {}

  public static RopeConfig plain(double theta) {
    return new RopeConfig(theta, new None());
  }

  /**
   * Reads them from {@code rope_parameters}, as transformers 5 writes it, or from the older keys of
   * the configuration and {@code rope_scaling}.
   *
   * @param thetaKey the older name of the base
   */
  static RopeConfig read(StrictJson config, int positions, String thetaKey, double absent) {
    StrictJson rope = parameters(config);
    if (rope == null) {
      return plain(theta(config, thetaKey, absent));
    }
    for (String key : rope.keys()) {
      if (rope.raw(key).isObject()) {
        throw rope.fault(key, "is an object; different positions by layer are not supported");
      }
    }
    return of(config, rope, positions, thetaKey, absent);
  }

  /** Reads them from the parameters of one kind of layer. */
  static RopeConfig of(
      StrictJson config, StrictJson rope, int positions, String thetaKey, double absent) {
    double theta =
        rope.has("rope_theta")
            ? theta(rope, "rope_theta", absent)
            : theta(config, thetaKey, absent);
    String type = rope.text("rope_type", rope.text("type", "default"));
    return switch (type) {
      case "default" -> plain(theta);
      case "linear" -> new RopeConfig(theta, new Linear(positive(rope, "factor")));
      case "llama3" -> new RopeConfig(theta, llama3(config, rope, positions));
      default ->
          throw rope.fault(
              "rope_type", "is " + type + "; supported are default, linear and llama3");
    };
  }

  /** The share of each head that is rotated. {@code key} is its name outside the parameters. */
  static double part(StrictJson config, String key, double absent) {
    StrictJson rope = parameters(config);
    return rope != null && rope.has(PART) ? rope.number(PART) : config.number(key, absent);
  }

  /**
   * {@code rope_scaling} replaces {@code rope_parameters} as a whole, as in transformers: users add
   * it to a configuration to stretch a model's context.
   */
  private static StrictJson parameters(StrictJson config) {
    return scaling(config).or(() -> config.object("rope_parameters")).orElse(null);
  }

  /** What {@code rope_scaling} holds, if it holds anything. */
  static Optional<StrictJson> scaling(StrictJson config) {
    return config.object("rope_scaling").filter(scaling -> !scaling.keys().isEmpty());
  }

  private static double theta(StrictJson json, String key, double absent) {
    double theta = json.number(key, absent);
    if (theta <= 0) {
      throw json.fault(key, "is not positive");
    }
    return theta;
  }

  private static Llama3 llama3(StrictJson config, StrictJson rope, int positions) {
    double low = positive(rope, "low_freq_factor");
    double high = positive(rope, "high_freq_factor");
    if (low >= high) {
      throw rope.fault("low_freq_factor", "is not below high_freq_factor");
    }
    return new Llama3(
        positive(rope, "factor"),
        low,
        high,
        config.positive(ORIGINAL, rope.positive(ORIGINAL, positions)));
  }

  private static double positive(StrictJson rope, String key) {
    if (rope.number(key) <= 0) {
      throw rope.fault(key, "is not positive");
    }
    return rope.number(key);
  }
}
