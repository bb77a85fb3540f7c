package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.bindings.NativeException;
import espalier.bindings.kernels.esp_control;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class OptimizerTest extends KernelTest {

  private static final float BETA1 = 0.9f;
  private static final float BETA2 = 0.999f;
  private static final float ADAM_EPS = 1e-8f;

  /** A control block; its fields are doubles and longs. */
  private MemorySegment control(double lr, double norm, long step) {
    return control(lr, norm, step, 0, 0);
  }

  private MemorySegment control(double lr, double norm, long step, double loss, int overflow) {
    MemorySegment host = MemorySegment.ofArray(new long[Math.toIntExact(esp_control.sizeof() / 8)]);
    esp_control.lr(host, lr);
    esp_control.grad_norm(host, norm);
    esp_control.step(host, step);
    esp_control.loss(host, loss);
    esp_control.overflow(host, overflow);
    MemorySegment control = buffers.longs(Math.toIntExact(esp_control.sizeof() / 8));
    Transfer.write(control, host);
    return control;
  }

  private static double norm(MemorySegment control) {
    return esp_control.grad_norm(Transfer.onHost(control));
  }

  @ParameterizedTest
  @ValueSource(ints = {0, 1, 4097, 1_000_003})
  void globalNorm(int n) {
    float[] grad = random(n);
    double squares = 0;
    for (float g : grad) squares += (double) g * g;
    MemorySegment control = control(0, -1, 1);
    kernels.globalNorm(buffers.input(grad), n, control);
    double expected = Math.sqrt(squares);
    assertEquals(expected, norm(control), 1e-12 * expected);
  }

  @Test
  void globalNormIsTheSameForAnyThreads() {
    MemorySegment grad = buffers.input(random(1_000_003));
    MemorySegment control = control(0, 0, 1);
    kernels.setThreads(1);
    kernels.globalNorm(grad, 1_000_003, control);
    double one = norm(control);
    kernels.setThreads(3);
    kernels.globalNorm(grad, 1_000_003, control);
    assertEquals(one, norm(control), 0.0);
  }

  /** Squares beyond float32's range. */
  @Test
  void globalNormDoesNotOverflow() {
    MemorySegment control = control(0, 0, 1);
    kernels.globalNorm(buffers.input(3e30f, 4e30f), 2, control);
    assertEquals(5e30, norm(control), 1e-6 * 5e30);
  }

  @ParameterizedTest
  @CsvSource({"0, 0", "0.1, 0", "0, 0.5", "0.1, 1000"})
  void adamw(float weightDecay, float clip) {
    int n = 40_001;
    double lr = 1e-2;
    float[] initial = random(n);
    MemorySegment param = buffers.changing(initial);
    MemorySegment m = buffers.changing(new float[n]);
    MemorySegment v = buffers.changing(new float[n]);
    double[] p = doubles(initial);
    double[] m64 = new double[n];
    double[] v64 = new double[n];
    double[] moved = new double[n];
    for (int step = 1; step <= 10; step++) {
      float[] grad = random(n, 0.5);
      MemorySegment gradient = buffers.input(grad);
      MemorySegment control = control(lr, 0, step);
      kernels.globalNorm(gradient, n, control);
      kernels.adamw(param, gradient, m, v, n, BETA1, BETA2, ADAM_EPS, weightDecay, clip, control);
      double norm = norm(control);
      double scale = clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1;
      for (int i = 0; i < n; i++) {
        double g = grad[i] * scale;
        m64[i] = BETA1 * m64[i] + (1 - (double) BETA1) * g;
        v64[i] = BETA2 * v64[i] + (1 - (double) BETA2) * g * g;
        double step1 = lr / (1 - Math.pow(BETA1, step)) * m64[i];
        double update = step1 / (Math.sqrt(v64[i] / (1 - Math.pow(BETA2, step))) + ADAM_EPS);
        p[i] = p[i] * (1 - lr * weightDecay) - update;
        moved[i] += Math.abs(update);
      }
    }
    // Ten steps: a rounding or two of the parameter in each, eight of each update, and m may
    // cancel.
    assertNear(
        "param", p, param, i -> EPS * (10 * (Math.abs(p[i]) + lr * 10) + 10 * moved[i] + 10 * lr));
    assertNear("m", m64, m, i -> 10 * EPS);
    assertNear("v", v64, v, relative(v64, 20));
  }

  /** The first step has the size of the learning rate, whatever the gradient's. */
  @Test
  void theFirstStepIsTheLearningRate() {
    MemorySegment param = buffers.changing(1, 1, 1);
    MemorySegment zeros = buffers.changing(0, 0, 0);
    MemorySegment more = buffers.changing(0, 0, 0);
    kernels.adamw(
        param,
        buffers.input(1e-3f, -7, 1e3f),
        zeros,
        more,
        3,
        BETA1,
        BETA2,
        1e-12f,
        0,
        0,
        control(0.125, 0, 1));
    assertNear("param", new double[] {0.875, 1.125, 0.875}, param, i -> 4 * EPS);
  }

  /** A step that went wrong must not count: neither its numbers nor its lists can be trusted. */
  @Test
  void aFailedStepChangesNothing() {
    for (MemorySegment failed :
        List.of(
            control(0.1, Double.NaN, 1),
            control(0.1, 1, 1, Double.POSITIVE_INFINITY, 0),
            control(0.1, 1, 1, 0, 300))) {
      MemorySegment param = buffers.changing(1);
      MemorySegment m = buffers.changing(2);
      MemorySegment v = buffers.changing(3);
      kernels.adamw(param, buffers.input(1f), m, v, 1, BETA1, BETA2, ADAM_EPS, 0.5f, 1, failed);
      assertArrayEquals(new float[] {1, 2, 3}, concat(param, m, v));
    }
  }

  @Test
  void isTheSameForAnyThreads() {
    int n = 400_003;
    float[] grad = random(n);
    float[] initial = random(n);
    float[] ones = new float[n];
    Arrays.fill(ones, 1);
    assertSameForAnyThreads(
        () -> {
          MemorySegment param = buffers.changing(initial);
          MemorySegment m = buffers.changing(ones);
          MemorySegment v = buffers.changing(ones);
          kernels.adamw(
              param,
              buffers.input(grad),
              m,
              v,
              n,
              BETA1,
              BETA2,
              ADAM_EPS,
              0.1f,
              1,
              control(1e-3, 2, 3));
          return concat(param, m, v);
        });
  }

  @Test
  void refusesAStepThatIsNone() {
    onTheCpuOnly("the host cannot look at what is in a GPU's memory");
    MemorySegment x = buffers.floats(1);
    NativeException e =
        assertThrows(
            NativeException.class,
            () -> kernels.adamw(x, x, x, x, 1, BETA1, BETA2, ADAM_EPS, 0, 0, control(1e-3, 1, 0)));
    assertTrue(e.getMessage().contains("step is counted from 1"), e.getMessage());
  }
}
