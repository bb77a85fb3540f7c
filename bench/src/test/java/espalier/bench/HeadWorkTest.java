package espalier.bench;

import static espalier.bench.Agreement.assertSame;

import espalier.device.Device;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class HeadWorkTest {

  @ParameterizedTest
  @ValueSource(floats = {0, 2})
  void chunksAndWholeLogitsAgree(float softcap) {
    try (Device device = Device.open()) {
      HeadWork work = new HeadWork(device, 90, 16, 500, softcap, 32);
      work.plain();
      float[] kl = work.kl.toArray();
      float[] gradient = work.dStudent.toArray();
      work.chunks();
      assertSame("kl in chunks", kl, work.kl.toArray(), 500);
      assertSame("gradient in chunks", gradient, work.dStudent.toArray(), 500);
      work.whole();
      assertSame("kl", kl, work.kl.toArray(), 500);
      assertSame("gradient", gradient, work.dStudent.toArray(), 500);
    }
  }
}
