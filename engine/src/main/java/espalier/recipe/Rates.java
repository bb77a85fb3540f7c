package espalier.recipe;

import espalier.device.Device;
import espalier.device.DeviceChoice;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;

/**
 * How fast a device is at what bounds everything else: a large dense product and a large copy.
 *
 * @param device that they are measured on
 */
record Rates(Device device) {

  private static final int WARM = 2;
  private static final double LEAST_SECONDS = 1e-3;

  /** Edge of the matrices of {@link #gemm}: enough work for the device in question. */
  static long edge() {
    return switch (DeviceChoice.current().kind()) {
      case CUDA -> 8192;
      case CPU -> 1024;
      case EMULATOR -> 64;
    };
  }

  /**
   * Median seconds of one call, timed by the device. Short calls are timed many at once, as many as
   * take {@value #LEAST_SECONDS} s, because starting a clock costs a GPU several microseconds.
   */
  double seconds(int repeats, Runnable work) {
    for (int i = 0; i < WARM; i++) {
      work.run();
    }
    device.synchronize();
    int calls = (int) Math.clamp(Math.ceil(LEAST_SECONDS / device.seconds(work)), 1, 100);
    double[] seconds = new double[repeats];
    for (int i = 0; i < repeats; i++) {
      seconds[i] =
          device.seconds(
                  () -> {
                    for (int call = 0; call < calls; call++) {
                      work.run();
                    }
                  })
              / calls;
    }
    Arrays.sort(seconds);
    return seconds[repeats / 2];
  }

  /** Rate of a square product of random matrices, in floating-point operations a second. */
  double gemm(int repeats) {
    long n = edge();
    MemorySegment a = random(n * n, 1);
    MemorySegment b = random(n * n, 2);
    MemorySegment c = random(n * n, 3);
    double seconds =
        seconds(repeats, () -> device.kernels().gemm(false, true, n, n, n, 1, a, n, b, n, 0, c, n));
    return 2.0 * n * n * n / seconds;
  }

  /** Rate of a copy that no cache holds, in bytes a second, read and written. */
  double copy(int repeats) {
    long n = 16 * edge() * edge();
    MemorySegment x = random(n, 4);
    MemorySegment y = random(n, 5);
    double seconds = seconds(repeats, () -> device.kernels().copy(x, y, n));
    return 2.0 * n * device.type().bytes() / seconds;
  }

  /** Activations or weights of the device's type, uniform with standard deviation 1. */
  MemorySegment random(long n, long seed) {
    MemorySegment x = device.allocate(n * device.type().bytes());
    device.kernels().fillUniform(x, (float) Math.sqrt(3), seed, n);
    return x;
  }
}
