package espalier.device;

/** Points in the order of a device's work, and when it came there. */
interface Clock extends AutoCloseable {

  /** A point behind everything queued so far. */
  long mark();

  /** Waits until all points have been reached. */
  void settle();

  /** From the clock's begin to a point. */
  double seconds(long mark);

  @Override
  void close();

  /** The host's, where a call that has returned is done. */
  static Clock ofHost() {
    long begin = System.nanoTime();
    return new Clock() {
      @Override
      public long mark() {
        return System.nanoTime();
      }

      @Override
      public void settle() {}

      @Override
      public double seconds(long mark) {
        return (mark - begin) * 1e-9;
      }

      @Override
      public void close() {}
    };
  }
}
