package espalier.kernels;

import espalier.device.ElementType;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import java.util.function.Function;
import java.util.function.IntToDoubleFunction;
import java.util.stream.Stream;

/**
 * Kernels in every type of activations, in memory that allows 16 bytes at a time and in memory that
 * does not. Each test takes a {@link Layout} from {@code layouts}; its sizes are so that rows fit
 * whole packs.
 */
abstract class TypedKernelTest extends KernelTest {

  /**
   * @param aligned to 16 bytes, or to the element only
   */
  record Layout(ElementType type, boolean aligned) {}

  static Stream<Layout> layouts() {
    return Stream.of(ElementType.values())
        .flatMap(type -> Stream.of(new Layout(type, false), new Layout(type, true)));
  }

  /** Buffers from now on are as the layout says. */
  Kernels kernels(Layout layout) {
    buffers.alignTo16(layout.aligned);
    return kernels(layout.type);
  }

  /** Errors of float32 are at most 1e-5 of the largest value. */
  static void assertActivations(
      String what,
      ElementType type,
      Function<Storage, double[]> reference,
      MemorySegment actual,
      int factor) {
    double scale = 0;
    for (double value : reference.apply(Storage.EXACT)) scale = Math.max(scale, Math.abs(value));
    double bound = 1e-5 * scale;
    assertActivations(what, type, reference, actual, i -> bound, factor);
  }

  /** {@code reference} of each index. */
  static double[] each(int n, IntToDoubleFunction reference) {
    double[] out = new double[n];
    for (int i = 0; i < n; i++) out[i] = reference.applyAsDouble(i);
    return out;
  }
}
