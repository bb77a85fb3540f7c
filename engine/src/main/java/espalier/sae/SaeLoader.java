package espalier.sae;

import espalier.autograd.Parameter;
import espalier.device.Control;
import espalier.device.Device;
import espalier.format.InputException;
import espalier.format.SaeWeights;
import espalier.format.TensorEntry;
import espalier.tensor.Tensor;
import java.util.Arrays;
import java.util.function.Consumer;

/** Brings an SAE from its files into device memory, in the one layout that the engine uses. */
public final class SaeLoader {

  private SaeLoader() {}

  /**
   * @param warn told of what is odd but can be used
   */
  public static Sae load(Device device, SaeWeights weights, Consumer<String> warn) {
    weights.warnings().forEach(warning -> warn.accept(weights.path() + ": " + warning));
    Sae sae = upload(device, weights);
    Control control = new Control(device);
    for (Parameter parameter : sae.parameters()) {
      if (!isFinite(device, control, parameter.value())) {
        warn.accept(weights.path() + ": " + parameter.name() + " holds NaN or infinite values");
      }
    }
    return sae;
  }

  private static Sae upload(Device device, SaeWeights w) {
    refuse(w, w.skip() != null, "a skip connection");
    refuse(w, w.normalisation() != SaeWeights.Normalisation.NONE, "run-time normalisation");
    refuse(w, w.dOut() != w.dIn(), "another width of its output");
    refuse(w, w.activation() == SaeWeights.Activation.GROUPMAX, "groupmax");
    refuse(w, w.bPre() != null && !Arrays.equals(w.bPre(), w.bDec()), "an input bias of its own");
    return new Sae(
        Sae.Kind.of(w.activation()),
        w.k(),
        Parameter.frozen("W_enc", matrix(device, w.encoder())),
        Parameter.frozen("b_enc", vector(device, w.bEnc())),
        Parameter.frozen("W_dec", matrix(device, w.decoder())),
        Parameter.frozen("b_dec", vector(device, w.bDec())),
        w.threshold() == null ? null : Parameter.frozen("threshold", vector(device, w.threshold())),
        w.bPre() != null);
  }

  private static void refuse(SaeWeights w, boolean has, String what) {
    if (has) {
      throw new InputException(w.path(), "has " + what + ", which is not supported");
    }
  }

  private static Tensor matrix(Device device, SaeWeights.Matrix matrix) {
    TensorEntry entry = matrix.entry();
    long rows = entry.shape()[entry.columnMajor() ? 1 : 0];
    Tensor tensor = Tensor.allocate(device, rows, entry.size() / rows);
    entry.copyTo(device, tensor);
    if (matrix.transposed()) {
      tensor = transposed(device, tensor);
    }
    for (long r = 0; matrix.rowScale() != null && r < tensor.rows(); r++) {
      for (long c = 0; c < tensor.cols(); c++) {
        tensor.set(r, c, tensor.get(r, c) * matrix.rowScale()[(int) r]);
      }
    }
    return tensor;
  }

  private static Tensor vector(Device device, float[] values) {
    Tensor tensor = Tensor.allocate(device, 1, values.length);
    tensor.copyFrom(values);
    return tensor;
  }

  static Tensor transposed(Device device, Tensor from) {
    Tensor to = Tensor.allocate(device, from.cols(), from.rows());
    for (long r = 0; r < from.rows(); r++) {
      for (long c = 0; c < from.cols(); c++) {
        to.set(c, r, from.get(r, c));
      }
    }
    return to;
  }

  /** A norm is finite exactly if every value is: squares of float32 do not overflow float64. */
  private static boolean isFinite(Device device, Control control, Tensor tensor) {
    device.kernels().globalNorm(tensor.data(), tensor.size(), control.data());
    return Double.isFinite(control.gradientNorm());
  }
}
