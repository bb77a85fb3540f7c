package espalier.train;

/** Independent seeds from one: a run's seed and a position in it give the seed of that position. */
public final class Seeds {

  private Seeds() {}

  /** SplitMix64's finalizer (Steele, Lea and Flood 2014) over the seed and the position. */
  public static long at(long seed, long position) {
    long z = seed + (position + 1) * 0x9E3779B97F4A7C15L;
    z = (z ^ (z >>> 30)) * 0xBF58476D1CE4E5B9L;
    z = (z ^ (z >>> 27)) * 0x94D049BB133111EBL;
    return z ^ (z >>> 31);
  }
}
