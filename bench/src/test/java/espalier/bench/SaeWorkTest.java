package espalier.bench;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.bench.SaeWork.Kind;
import espalier.device.Device;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** What is compared computes the same. */
class SaeWorkTest {

  /** Sums of at most 300 float32 products of standard normals: 300 eps sqrt(300) with room. */
  private static final float BOUND = 1e-3f;

  @ParameterizedTest
  @EnumSource
  void listsAndDenseAgree(Kind kind) {
    try (SaeWork work = new SaeWork(Device.open(), kind, 37, 48, 300, 12)) {
      long tokens = work.tokens;
      double average = (double) work.active() / tokens;
      assertTrue(average > 6 && average < 24, "about 12 active, not " + average);

      work.encodeProduct();
      float[] pre = work.preActivations();
      float[] latents = work.denseLatents();
      for (int t = 0; t < tokens; t++) {
        float least = Float.POSITIVE_INFINITY;
        float most = Float.NEGATIVE_INFINITY;
        for (int i = t * 300; i < (t + 1) * 300; i++) {
          if (latents[i] != 0) {
            assertEquals(pre[i], latents[i], BOUND);
            least = Math.min(least, pre[i]);
          } else {
            most = Math.max(most, pre[i]);
          }
        }
        assertTrue(most <= least + BOUND, "the largest are active");
      }

      work.decodeLists();
      float[] lists = work.out.toArray();
      work.decodeDense();
      assertArrayEquals(lists, work.out.toArray(), BOUND);

      work.backwardLists();
      lists = work.out.toArray();
      work.backwardDense();
      assertArrayEquals(lists, work.out.toArray(), BOUND);
    }
  }
}
