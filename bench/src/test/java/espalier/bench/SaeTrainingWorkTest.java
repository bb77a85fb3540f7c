package espalier.bench;

import static espalier.bench.Agreement.assertSame;

import espalier.device.Device;
import org.junit.jupiter.api.Test;

class SaeTrainingWorkTest {

  @Test
  void listsAndDenseProductsAgree() {
    try (Device device = Device.open()) {
      SaeTrainingWork lists = new SaeTrainingWork(device, 60, 24, 128, 8);
      SaeTrainingWork dense = new SaeTrainingWork(device, 60, 24, 128, 8);
      lists.gradientsOnLists();
      dense.gradientsDense();
      assertSame("gradients", lists.gradients(), dense.gradients(), 60);
      for (int i = 0; i < 3; i++) {
        lists.stepOnLists();
        dense.stepDense();
      }
      assertSame("parameters", lists.parameters(), dense.parameters(), 60);
    }
  }
}
