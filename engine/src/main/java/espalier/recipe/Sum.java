package espalier.recipe;

import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/** Adds up per-token losses, in float64, and brings the one number back. */
final class Sum {

  private final Kernels kernels;
  private final MemorySegment result;

  Sum(Device device) {
    kernels = device.kernels();
    result = device.allocate(Double.BYTES);
  }

  double of(Var losses) {
    kernels.sum(losses.data(), losses.size(), result);
    return result.get(ValueLayout.JAVA_DOUBLE, 0);
  }
}
