package espalier.bench;

import static espalier.bench.Agreement.assertSame;

import espalier.device.Device;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class AttentionWorkTest {

  @ParameterizedTest
  @CsvSource({
    "1, 40, 2, 2, 16, 0, 0",
    "2, 70, 6, 2, 16, 0, 0",
    "1, 70, 4, 1, 24, 5, 0",
    "2, 90, 2, 1, 16, 0, 17",
    "1, 130, 4, 2, 32, 3, 33"
  })
  void theKernelAndThePlainWayAgree(
      int batch, int length, int heads, int kvHeads, int headDim, float softcap, int window) {
    try (Device device = Device.open()) {
      AttentionWork work =
          new AttentionWork(
              device,
              new AttentionWork.Shape(batch, length, heads, kvHeads, headDim, softcap, window));
      work.forwardPlain();
      work.backwardPlain();
      float[] out = work.out.toArray();
      float[] dQ = work.dQ.toArray();
      float[] dK = work.dK.toArray();
      float[] dV = work.dV.toArray();
      work.forwardFused();
      work.backwardFused();
      assertSame("out", out, work.out.toArray(), length);
      assertSame("dQ", dQ, work.dQ.toArray(), length);
      assertSame("dK", dK, work.dK.toArray(), length);
      assertSame("dV", dV, work.dV.toArray(), length);
    }
  }
}
