package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import espalier.device.Device;
import espalier.device.DeviceChoice;
import espalier.device.ElementType;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/** Whole training steps in bfloat16, on whatever device is chosen. */
class Bfloat16StepTest {

  private final DeviceChoice chosen = DeviceChoice.current();

  @AfterEach
  void restore() {
    DeviceChoice.choose(chosen);
  }

  /** bfloat16 keeps 8 bits: the loss, a sum over many tokens, agrees to a few percent. */
  @Test
  void followsFloat32() {
    double[] exact = steps(ElementType.F32, 0).losses;
    double[] rounded = steps(ElementType.BF16, 0).losses;
    for (int i = 0; i < exact.length; i++) {
      assertEquals(exact[i], rounded[i], 0.05 * Math.abs(exact[i]), "number " + i);
    }
  }

  @Test
  void hasTheSameBitsWithAnyThreads() {
    assumeTrue(chosen.kind() == DeviceChoice.Kind.CPU, "threads of the host");
    Outcome one = steps(ElementType.BF16, 1);
    Outcome three = steps(ElementType.BF16, 3);
    assertArrayEquals(one.losses, three.losses);
    assertArrayEquals(one.parameters, three.parameters);
  }

  /**
   * @param losses and gradient norms, by turns
   */
  private record Outcome(double[] losses, float[] parameters) {}

  /**
   * @param threads of the host, 0 for all
   */
  private Outcome steps(ElementType type, int threads) {
    DeviceChoice.choose(new DeviceChoice(chosen.kind(), chosen.ordinal(), type, ""));
    try (Device device = Device.open()) {
      device.kernels().setThreads(threads);
      GoldenSteps steps = new GoldenSteps(device);
      Outcome outcome = new Outcome(steps.run(3, true), steps.parameters());
      device.kernels().setThreads(0);
      return outcome;
    }
  }
}
