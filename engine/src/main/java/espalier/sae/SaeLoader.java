package espalier.sae;

import espalier.autograd.Parameter;
import espalier.device.Control;
import espalier.device.Device;
import espalier.device.ElementType;
import espalier.format.SaeSite;
import espalier.format.SaeSite.Kind;
import espalier.format.SaeWeights;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.function.Consumer;

/** Brings an SAE from its files into device memory, in the one layout that the engine uses. */
public final class SaeLoader {

  /** Elements: 64 MB. */
  private static final long CHECKED_AT_ONCE = 1 << 24;

  private SaeLoader() {}

  /**
   * @param warn told of what is odd but can be used
   */
  public static Sae load(Device device, SaeWeights weights, Consumer<String> warn) {
    weights.warnings().forEach(warning -> warn.accept(weights.path() + ": " + warning));
    String what = "SAE " + weights.path();
    device.require(what, (weights.dIn() + weights.dOut()) * weights.dSae() * device.type().bytes());
    device.holder(what);
    Sae sae = upload(device, weights);
    for (Parameter parameter : sae.parameters()) {
      if (!isFinite(device, parameter.value())) {
        warn.accept(weights.path() + ": " + parameter.name() + " holds NaN or infinite values");
      }
    }
    return sae;
  }

  private static Sae upload(Device device, SaeWeights w) {
    Parameter bDec = vector(device, "b_dec", w.bDec());
    boolean tied = w.bPre() != null && Arrays.equals(w.bPre(), w.bDec());
    return new Sae(
        site(w),
        w.activation(),
        w.k(),
        matrix(device, "W_enc", w.encoder(), w.dSae(), w.dIn()),
        vector(device, "b_enc", w.bEnc()),
        tied ? bDec : vector(device, "b_pre", w.bPre()),
        matrix(device, "W_dec", w.decoder(), w.dSae(), w.dOut()),
        bDec,
        vector(device, "threshold", w.threshold()),
        w.skip() == null ? null : matrix(device, "W_skip", w.skip(), w.dOut(), w.dIn()),
        w.normalisation(),
        w.restoresScale());
  }

  /** Most SAEs are of the residual stream: so is one that does not say. */
  private static Kind site(SaeWeights w) {
    return w.site().map(SaeSite::kind).filter(k -> k != Kind.UNNAMED).orElse(Kind.RESIDUAL);
  }

  /** In one pass over the mapped file. */
  private static Parameter matrix(
      Device device, String name, SaeWeights.Matrix matrix, long rows, long cols) {
    Tensor tensor = Tensor.allocate(device, rows, cols, device.type());
    Parameter scale = vector(device, name, matrix.rowScale());
    MemorySegment rowScale = scale == null ? MemorySegment.NULL : scale.data();
    matrix.entry().copyTo(device, matrix.transposed(), rowScale, tensor);
    return Parameter.frozen(name, tensor);
  }

  private static Parameter vector(Device device, String name, float[] values) {
    if (values == null) {
      return null;
    }
    Tensor tensor = Tensor.allocate(device, 1, values.length);
    tensor.copyFrom(values);
    return Parameter.frozen(name, tensor);
  }

  /** A norm is finite exactly if every value is: squares of float32 do not overflow float64. */
  private static boolean isFinite(Device device, Tensor tensor) {
    long step = Math.clamp(CHECKED_AT_ONCE / tensor.cols(), 1, tensor.rows());
    Tensor exact =
        tensor.type() == ElementType.F32 ? null : Tensor.allocate(device, step, tensor.cols());
    for (long row = 0; row < tensor.rows(); row += step) {
      Tensor part = tensor.rows(row, Math.min(step, tensor.rows() - row));
      Tensor values = part;
      if (exact != null) {
        values = exact.rows(0, part.rows());
        device
            .kernels()
            .convert(part.data(), part.type().code(), values.data(), part.size(), ElementType.F32);
      }
      Control control = device.control();
      device.kernels().globalNorm(values.data(), values.size(), control.data());
      control.download();
      device.synchronize();
      if (!Double.isFinite(control.gradientNorm())) {
        return false;
      }
    }
    return true;
  }
}
