package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import espalier.bindings.cudart.CudaRuntime;
import espalier.device.Replay;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import org.junit.jupiter.api.Test;

/** What {@code esp_prepare_graph(graph)} makes of a captured graph computes the same. */
class GraphTest extends KernelTest {

  private static final int LENGTH = 100_000;
  private static final int GIVEN = 1003;

  /** Bytes from where on and how many: single bytes, more than a block, more than is replaced. */
  private static final int[][] FILLS = {{0, 4}, {5, 1}, {7, 6}, {4096, 5000}, {100_000, 200_000}};

  @Test
  void fillsAndCopiesStayBetweenTheKernelsThatTheyLieBetween() {
    assumeFalse(device.isHost(), "only CUDA has graphs");
    Tensor x = Tensor.allocate(device, 1, LENGTH);
    Tensor sum = Tensor.allocate(device, 1, LENGTH);
    MemorySegment given = device.allocateStaging(GIVEN * Float.BYTES);
    MemorySegment taken = device.allocateStaging(LENGTH * Float.BYTES);
    kernels.fill(sum.data(), 0, LENGTH);
    Replay replay =
        device.replay(
            () -> {
              for (int[] fill : FILLS) {
                kernels.fill(x.data(), 1, LENGTH);
                MemorySegment part = x.data().asSlice(fill[0], fill[1]);
                int status = CudaRuntime.cudaMemsetAsync(part, 0x40, fill[1], device.stream());
                assertEquals(CudaRuntime.cudaSuccess(), status);
                kernels.add(sum.data(), x.data(), sum.data(), LENGTH);
              }
              device.upload(given, x.data().asSlice(Float.BYTES, given.byteSize()));
              kernels.add(sum.data(), x.data(), sum.data(), LENGTH);
              device.download(sum.data(), taken); // more than is replaced
              device.download(sum.data().asSlice(0, 4), taken.asSlice(4, 4));
            });
    int runs = 4; // the first call by call, then captured
    for (int run = 0; run < runs; run++) {
      for (int i = 0; i < GIVEN; i++) {
        given.setAtIndex(ValueLayout.JAVA_FLOAT, i, run + i);
      }
      replay.run();
      device.synchronize();
    }
    assertEquals("as one CUDA graph", replay.describe());
    float[] expected = expected(runs);
    assertArrayEquals(expected, sum.toArray());
    expected[1] = expected[0];
    assertArrayEquals(expected, taken.toArray(ValueLayout.JAVA_FLOAT));
  }

  private static float[] expected(int runs) {
    float[] sum = new float[LENGTH];
    float[] x = new float[LENGTH];
    for (int run = 0; run < runs; run++) {
      for (int[] fill : FILLS) {
        int[] bits = new int[LENGTH];
        Arrays.fill(bits, Float.floatToRawIntBits(1));
        for (int at = fill[0]; at < fill[0] + fill[1]; at++) {
          int shift = 8 * (at % 4);
          bits[at / 4] = bits[at / 4] & ~(0xff << shift) | 0x40 << shift;
        }
        for (int i = 0; i < LENGTH; i++) {
          x[i] = Float.intBitsToFloat(bits[i]);
          sum[i] += x[i];
        }
      }
      for (int i = 0; i < GIVEN; i++) {
        x[1 + i] = run + i;
      }
      for (int i = 0; i < LENGTH; i++) {
        sum[i] += x[i];
      }
    }
    return sum;
  }
}
