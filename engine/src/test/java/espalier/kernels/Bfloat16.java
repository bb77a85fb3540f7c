package espalier.kernels;

/** The type bfloat16: the upper half of a float, rounded to nearest even. */
final class Bfloat16 {

  private Bfloat16() {}

  static short encode(float value) {
    int bits = Float.floatToRawIntBits(value);
    if (Float.isNaN(value)) return (short) 0x7fff;
    return (short) (bits + 0x7fff + (bits >>> 16 & 1) >>> 16);
  }

  static short[] encode(float... values) {
    short[] out = new short[values.length];
    for (int i = 0; i < values.length; i++) out[i] = encode(values[i]);
    return out;
  }

  static float decode(short bits) {
    return Float.intBitsToFloat(bits << 16);
  }

  static float[] decode(short... bits) {
    float[] out = new float[bits.length];
    for (int i = 0; i < bits.length; i++) out[i] = decode(bits[i]);
    return out;
  }

  /** The nearest bfloat16, to even where two are as near, rounded once. */
  static double round(double value) {
    float near = (float) value;
    double rest = value - near;
    // A tie that is none to the double: one step of the float towards it decides.
    if (rest != 0 && (Float.floatToRawIntBits(near) & 0xffff) == 0x8000) {
      near = rest > 0 ? Math.nextUp(near) : Math.nextDown(near);
    }
    return decode(encode(near));
  }
}
