package espalier.bench;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.device.Device;
import espalier.recipe.BenchSettings;
import espalier.recipe.RandomStep;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;

/** Both steps begin with the same model, SAE and tokens, and learn different things. */
class StepBenchmarkTest {

  private static final BenchSettings TINY =
      new BenchSettings("tiny", 24, 2, 128, OptionalInt.empty(), 4, "after", 8, 1);

  @Test
  void theFirstKlIsTheSame() {
    try (Device one = Device.open();
        Device other = Device.open()) {
      RandomStep adapt = RandomStep.adapt(one, TINY);
      RandomStep endToEnd = RandomStep.endToEnd(other, TINY);
      double kl = adapt.run().get("kl").doubleValue(); // B of every adapter is 0 still
      assertTrue(kl > 0, "the SAE changes what the model predicts");
      // A KL is a difference of logits' functions: some hundred roundings of their size, not of
      // its.
      assertEquals(kl, endToEnd.run().get("kl").doubleValue(), 1e-5 * Math.max(1, kl));
      assertNotEquals(adapt.run().get("kl"), endToEnd.run().get("kl"), "different things learn");
    }
  }
}
