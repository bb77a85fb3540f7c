package espalier.recipe;

import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.Kernels;
import espalier.device.Transfer;
import java.lang.foreign.MemorySegment;

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
    return Transfer.doubles(result)[0];
  }
}
