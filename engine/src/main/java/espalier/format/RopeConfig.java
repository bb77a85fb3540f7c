package espalier.format;

import com.fasterxml.jackson.databind.node.ObjectNode;

/**
 * Rotary positions: the base of the frequencies, and how they are stretched for long contexts.
 *
 * @param theta base of the frequencies
 */
public record RopeConfig(double theta, Scaling scaling) {

  /** How frequencies differ from theta^(-2i/d). */
  public sealed interface Scaling {}

  /** They do not. */
  public record None() implements Scaling {}

  /** All divided by a factor (Chen et al. 2023). */
  public record Linear(double factor) implements Scaling {}

  /** Llama 3.1's: long wavelengths divided by a factor, short ones kept, a ramp in between. */
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
   * From {@code rope_parameters} as transformers 5 writes it, or the older {@code rope_theta} and
   * {@code rope_scaling}.
   */
  static RopeConfig read(StrictJson config, int positions) {
    StrictJson rope =
        config.object("rope_parameters").or(() -> config.object("rope_scaling")).orElse(null);
    double theta =
        rope != null && rope.has("rope_theta")
            ? rope.number("rope_theta")
            : config.number("rope_theta", 10_000);
    if (theta <= 0) {
      throw config.fault("rope_theta", "is not positive");
    }
    if (rope == null) {
      return plain(theta);
    }
    for (String key : rope.keys()) {
      if (rope.raw(key).isObject()) {
        throw rope.fault(key, "is an object; different positions by layer are not supported");
      }
    }
    if (rope.number("partial_rotary_factor", 1) != 1) {
      throw rope.fault("partial_rotary_factor", "is not 1, which is not supported");
    }
    String type = rope.text("rope_type", rope.text("type", "default"));
    return switch (type) {
      case "default" -> plain(theta);
      case "linear" -> new RopeConfig(theta, new Linear(positive(rope, "factor")));
      case "llama3" -> new RopeConfig(theta, llama3(rope, positions));
      default ->
          throw rope.fault(
              "rope_type", "is " + type + "; supported are default, linear and llama3");
    };
  }

  private static Llama3 llama3(StrictJson rope, int positions) {
    double low = positive(rope, "low_freq_factor");
    double high = positive(rope, "high_freq_factor");
    if (low >= high) {
      throw rope.fault("low_freq_factor", "is not below high_freq_factor");
    }
    return new Llama3(
        positive(rope, "factor"),
        low,
        high,
        rope.positive("original_max_position_embeddings", positions));
  }

  private static double positive(StrictJson rope, String key) {
    if (rope.number(key) <= 0) {
      throw rope.fault(key, "is not positive");
    }
    return rope.number(key);
  }

  void write(ObjectNode config) {
    config.put("rope_theta", theta);
    switch (scaling) {
      case None() -> config.putNull("rope_scaling");
      case Linear(double factor) ->
          config.putObject("rope_scaling").put("rope_type", "linear").put("factor", factor);
      case Llama3(double factor, double low, double high, double original) ->
          config
              .putObject("rope_scaling")
              .put("rope_type", "llama3")
              .put("factor", factor)
              .put("low_freq_factor", low)
              .put("high_freq_factor", high)
              .put("original_max_position_embeddings", (long) original);
    }
  }
}
