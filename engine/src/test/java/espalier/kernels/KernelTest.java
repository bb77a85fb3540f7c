package espalier.kernels;

import static espalier.bindings.kernels.Kernels.ESP_CUDA;
import static espalier.bindings.kernels.Kernels.esp_library_backend;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import espalier.device.Device;
import espalier.device.DeviceChoice;
import espalier.device.ElementType;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.SplittableRandom;
import java.util.function.Function;
import java.util.function.IntToDoubleFunction;
import java.util.function.Supplier;
import java.util.function.ToDoubleFunction;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;

/**
 * What the kernel tests share. A kernel is held against a plain loop in double precision; a
 * backward loop is itself held against central differences of the forward loop. Bounds are error
 * budgets: they count the roundings of float32.
 */
abstract class KernelTest {

  /** Distance from 1 to the next float. One rounding is off by at most half of it, relatively. */
  static final double EPS = 0x1p-23;

  static final MemorySegment NULL = MemorySegment.NULL;

  static Device device;
  static Kernels kernels;

  final TestBuffers buffers = new TestBuffers(device);

  /** Other inputs by system property {@code espalier.seed}: bounds must hold for all. */
  private final SplittableRandom random =
      new SplittableRandom(Long.getLong("espalier.seed", 20240607));

  /**
   * The implementation under test: system property {@code espalier.device}. With {@code
   * require.cuda} a machine without a usable GPU fails the tests, whatever that property says.
   */
  @BeforeAll
  static void openDevice() {
    if (Boolean.getBoolean("require.cuda")) {
      assertEquals(DeviceChoice.Kind.CUDA, DeviceChoice.current().kind(), "require.cuda");
    }
    device = Device.open();
    kernels = device.kernels();
  }

  /** The kernels for a type of activations. */
  static Kernels kernels(ElementType type) {
    return device.kernels(type);
  }

  /**
   * Whether the kernels are CUDA's, if only emulated: they cannot look at what lies in the device's
   * memory before they are launched.
   */
  static boolean kernelsAreCuda() {
    boolean cuda = esp_library_backend() == ESP_CUDA();
    assertEquals(
        cuda, DeviceChoice.current().kind() != DeviceChoice.Kind.CPU, "the library loaded");
    return cuda;
  }

  /** Skips what the CPU's kernels do not have. */
  static void onAGpuOnly(String why) {
    assumeTrue(kernelsAreCuda(), why);
  }

  /** Skips what other devices than the CPU do not promise. */
  static void onTheCpuOnly(String why) {
    assumeTrue(DeviceChoice.current().kind() == DeviceChoice.Kind.CPU, why);
  }

  @AfterAll
  static void closeDevice() {
    device.close();
  }

  @BeforeEach
  void useTwoThreads() {
    kernels.setThreads(2);
  }

  @AfterEach
  void verifyBuffers() {
    try (buffers) {
      buffers.verify();
    } finally {
      kernels.setThreads(0);
    }
  }

  /** Normal values around 0.5: a mean of 0 would hide sums that are left out. */
  float[] random(int count) {
    return random(count, 1);
  }

  float[] random(int count, double deviation) {
    float[] values = new float[count];
    for (int i = 0; i < count; i++) values[i] = (float) (deviation * random.nextGaussian() + 0.5);
    return values;
  }

  /** Random values that the type holds exactly. */
  float[] random(ElementType type, int count, double deviation) {
    float[] values = random(count, deviation);
    return type == ElementType.F32 ? values : Bfloat16.decode(Bfloat16.encode(values));
  }

  int[] randomInts(int count, int bound) {
    return random.ints(count, 0, bound).toArray();
  }

  /** Rows {@code ld} elements apart, with NaN in between: that is nobody's business. */
  static float[] widen(float[] x, int cols, int ld) {
    int rows = cols == 0 ? 0 : x.length / cols;
    float[] out = new float[rows * ld];
    Arrays.fill(out, Float.NaN);
    for (int r = 0; r < rows; r++) System.arraycopy(x, r * cols, out, r * ld, cols);
    return out;
  }

  /**
   * The rows one after another, in the host's memory; between them nothing may have been written.
   */
  static MemorySegment narrow(ElementType type, MemorySegment buffer, int cols, int ld) {
    float[] x = TestBuffers.toFloats(type, buffer);
    float[] out = new float[x.length / ld * cols];
    for (int r = 0; r < x.length / ld; r++) {
      System.arraycopy(x, r * ld, out, r * cols, cols);
      for (int c = cols; c < ld; c++) {
        assertTrue(Float.isNaN(x[r * ld + c]), "written between rows");
      }
    }
    return switch (type) {
      case F32 -> MemorySegment.ofArray(out);
      case BF16 -> MemorySegment.ofArray(Bfloat16.encode(out));
    };
  }

  static double[] doubles(float... values) {
    double[] out = new double[values.length];
    for (int i = 0; i < values.length; i++) out[i] = values[i];
    return out;
  }

  static void assertNear(
      String what, double[] expected, MemorySegment actual, IntToDoubleFunction bound) {
    assertNear(what, expected, TestBuffers.toFloats(actual), bound);
  }

  static void assertNear(String what, double[] expected, float[] actual, double[] bound) {
    assertNear(what, expected, actual, i -> bound[i]);
  }

  /** Every element is within its bound; what fails names the element that misses it by most. */
  static void assertNear(
      String what, double[] expected, float[] actual, IntToDoubleFunction bound) {
    assertEquals(expected.length, actual.length, what + ": length");
    int worst = -1;
    double excess = 1;
    for (int i = 0; i < expected.length; i++) {
      double error = Math.abs(actual[i] - expected[i]);
      double ratio = error == 0 ? 0 : error / bound.applyAsDouble(i);
      if (!(ratio <= excess)) {
        worst = i;
        excess = Double.isNaN(ratio) ? Double.POSITIVE_INFINITY : ratio;
      }
    }
    if (worst >= 0) {
      fail(
          "%s[%d] is %s, expected %s +- %.2e (%.1f times over)"
              .formatted(
                  what, worst, actual[worst], expected[worst], bound.applyAsDouble(worst), excess));
    }
  }

  /** How often the error of a plain computation in bfloat16 a kernel's own may be. */
  static final int FORWARD = 2;

  static final int GRADIENT = 3;

  /**
   * Holds activations against a reference. In float32 every element is within its bound. In
   * bfloat16 the largest error and the root of the mean squared error are at most {@code factor}
   * times those of the plain chain, both against the exact values (Dao's rule for FlashAttention).
   */
  static void assertActivations(
      String what,
      ElementType type,
      Function<Storage, double[]> reference,
      MemorySegment actual,
      IntToDoubleFunction floatBound,
      int factor) {
    double[] exact = reference.apply(Storage.EXACT);
    float[] values = TestBuffers.toFloats(type, actual);
    if (type == ElementType.F32) {
      assertNear(what, exact, values, floatBound);
      return;
    }
    Errors plain = Errors.of(exact, reference.apply(Storage.BFLOAT16));
    Errors own = Errors.of(exact, doubles(values));
    double scale = 0;
    for (double value : exact) scale = Math.max(scale, Math.abs(value));
    double slack = 1e-5 * scale;
    if (!(own.largest <= factor * plain.largest + slack
        && own.root <= factor * plain.root + slack)) {
      fail("%s: errors %s, of a plain computation %s".formatted(what, own, plain));
    }
  }

  /** The largest error, and the root of the mean squared error. */
  private record Errors(double largest, double root) {
    static Errors of(double[] exact, double[] actual) {
      assertEquals(exact.length, actual.length, "length");
      double largest = 0;
      double squares = 0;
      for (int i = 0; i < exact.length; i++) {
        double error = Math.abs(actual[i] - exact[i]);
        largest = Double.isNaN(error) ? Double.POSITIVE_INFINITY : Math.max(largest, error);
        squares += error * error;
      }
      return new Errors(largest, Math.sqrt(squares / Math.max(1, exact.length)));
    }
  }

  /** {@code factor * EPS * |expected|}, for chains of a few roundings without cancellation. */
  static IntToDoubleFunction relative(double[] expected, double factor) {
    return i -> factor * EPS * Math.abs(expected[i]);
  }

  /**
   * Holds an analytic gradient in double precision against central differences of {@code loss} at
   * x. The step's error is of order step^2, rounding's of order 1e-16 / step: both far below the
   * bound.
   */
  static void assertGradient(ToDoubleFunction<double[]> loss, double[] x, double[] analytic) {
    double step = 1e-5;
    double scale = 1;
    for (double value : analytic) scale = Math.max(scale, Math.abs(value));
    for (int i = 0; i < x.length; i++) {
      double original = x[i];
      x[i] = original + step;
      double above = loss.applyAsDouble(x);
      x[i] = original - step;
      double below = loss.applyAsDouble(x);
      x[i] = original;
      assertEquals((above - below) / (2 * step), analytic[i], 1e-7 * scale, "gradient [" + i + "]");
    }
  }

  static double dot(double[] a, double[] b) {
    double sum = 0;
    for (int i = 0; i < a.length; i++) sum += a[i] * b[i];
    return sum;
  }

  /**
   * The same bits with 1, 2 and 3 threads. Small work stays on one thread: sizes must be above
   * that.
   */
  static void assertSameForAnyThreads(Supplier<float[]> run) {
    kernels.setThreads(1);
    float[] expected = run.get();
    for (int threads = 2; threads <= 3; threads++) {
      kernels.setThreads(threads);
      assertSameBits(expected, run.get(), threads + " threads");
    }
  }

  static void assertSameBits(float[] expected, float[] actual, String what) {
    assertArrayEquals(bits(expected), bits(actual), what);
  }

  static float[] concat(MemorySegment... parts) {
    int length = 0;
    for (MemorySegment part : parts) length += Math.toIntExact(part.byteSize() / Float.BYTES);
    float[] out = new float[length];
    int at = 0;
    for (MemorySegment part : parts) {
      float[] values = TestBuffers.toFloats(part);
      System.arraycopy(values, 0, out, at, values.length);
      at += values.length;
    }
    return out;
  }

  private static int[] bits(float[] values) {
    int[] out = new int[values.length];
    for (int i = 0; i < values.length; i++) out[i] = Float.floatToRawIntBits(values[i]);
    return out;
  }
}
