package espalier.bench;

import static espalier.bench.Agreement.assertSame;

import espalier.device.Device;
import espalier.device.LinearWay;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class LoraWorkTest {

  private static final int IN = 48;
  private static final int OUT = 70;
  private static final int RANK = 6;
  private static final int TOKENS = 37;

  /** Ways that need a GPU are the kernel suite's. */
  @ParameterizedTest
  @EnumSource(names = {"BY_SHAPE", "SEPARATE", "EXTRA_COLUMNS"})
  void theChainAndTheKernelAgree(LinearWay way) {
    try (Device device = Device.open()) {
      LoraWork work = new LoraWork(device, way, TOKENS, IN, OUT, RANK);
      work.forwardChain();
      work.backwardChain();
      float[] y = work.y.toArray();
      float[] dX = work.dX.toArray();
      float[] dA = work.dA.toArray();
      float[] dB = work.dB.toArray();
      work.forwardFused();
      work.backwardFused();
      assertSame("y", y, work.y.toArray(), IN);
      assertSame("dX", dX, work.dX.toArray(), OUT);
      assertSame("dA", dA, work.dA.toArray(), TOKENS);
      assertSame("dB", dB, work.dB.toArray(), TOKENS);
    }
  }

  /** What the adapter is measured against is the layer that it adapts. */
  @Test
  void theUpdateIsAllThatTheFrozenLayerLacks() {
    try (Device device = Device.open()) {
      LoraWork work = new LoraWork(device, LinearWay.BY_SHAPE, TOKENS, IN, OUT, RANK);
      work.forwardFrozen();
      work.backwardFrozen();
      float[] y = work.y.toArray();
      float[] dX = work.dX.toArray();
      work.forwardChain();
      work.backwardChain();
      assertSame("y", work.y.toArray(), sum(y, work.update.toArray()), IN);
      assertSame("dX", work.dX.toArray(), sum(dX, work.dXOfUpdate.toArray()), OUT);
    }
  }

  private static float[] sum(float[] x, float[] y) {
    float[] sum = new float[x.length];
    for (int i = 0; i < sum.length; i++) {
      sum[i] = x[i] + y[i];
    }
    return sum;
  }
}
