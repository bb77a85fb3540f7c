package espalier.model;

import espalier.device.Device;
import espalier.format.RopeConfig;
import espalier.tensor.Tensor;

/**
 * Cosine and sine of every rotary angle, {@code [positions, rotaryDim / 2]} each (Su et al. 2021).
 *
 * <p>Frequencies and angles are rounded to float32 as Hugging Face rounds them: far into a context
 * the rounding of the angle is visible, and models have been trained with it.
 */
record RotaryTable(Tensor cos, Tensor sin) {

  /**
   * @param rotaryDim how many elements of a head are rotated
   */
  static RotaryTable of(Device device, RopeConfig rope, int rotaryDim, int positions) {
    int half = rotaryDim / 2;
    float[] cos = new float[Math.multiplyExact(positions, half)];
    float[] sin = new float[cos.length];
    for (int i = 0; i < half; i++) {
      double plain = Math.pow(rope.theta(), -2.0 * i / rotaryDim);
      float frequency = (float) scaled(plain, rope.scaling());
      for (int position = 0; position < positions; position++) {
        float angle = position * frequency;
        cos[position * half + i] = (float) Math.cos(angle);
        sin[position * half + i] = (float) Math.sin(angle);
      }
    }
    RotaryTable table =
        new RotaryTable(
            Tensor.allocate(device, positions, half), Tensor.allocate(device, positions, half));
    table.cos.copyFrom(cos);
    table.sin.copyFrom(sin);
    return table;
  }

  private static double scaled(double frequency, RopeConfig.Scaling scaling) {
    return switch (scaling) {
      case RopeConfig.None() -> frequency;
      case RopeConfig.Linear(double factor) -> frequency / factor;
      case RopeConfig.Llama3 llama3 -> scaled(frequency, llama3);
    };
  }

  /**
   * A frequency as in Llama 3.1: wavelengths beyond the original context are stretched, those well
   * within it are kept.
   */
  private static double scaled(double frequency, RopeConfig.Llama3 s) {
    double wavelength = 2 * Math.PI / frequency;
    if (wavelength < s.originalPositions() / s.highFrequencyFactor()) {
      return frequency;
    }
    if (wavelength > s.originalPositions() / s.lowFrequencyFactor()) {
      return frequency / s.factor();
    }
    double ramp =
        (s.originalPositions() / wavelength - s.lowFrequencyFactor())
            / (s.highFrequencyFactor() - s.lowFrequencyFactor());
    return (1 - ramp) * frequency / s.factor() + ramp * frequency;
  }
}
