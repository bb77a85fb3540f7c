package espalier.sae;

import espalier.autograd.Parameter;
import espalier.device.Control;
import espalier.device.Device;
import espalier.format.SaeWeights;
import espalier.format.TensorEntry;
import espalier.tensor.Tensor;
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
    Tensor wEnc = matrix(device, w.wEnc());
    Tensor wDec = matrix(device, w.wDec());
    Tensor bEnc = vector(device, w.bEnc());
    if (!w.encoderRowsAreLatents()) {
      wEnc = transposed(device, wEnc);
    }
    if (w.rankByDecoderNorm()) {
      foldDecoderNorm(wEnc, bEnc, wDec);
    }
    return new Sae(
        Sae.Kind.of(w.architecture()),
        (int) w.k().orElse(0),
        Parameter.frozen("W_enc", wEnc),
        Parameter.frozen("b_enc", bEnc),
        Parameter.frozen("W_dec", wDec),
        Parameter.frozen("b_dec", vector(device, w.bDec())),
        w.threshold() == null ? null : Parameter.frozen("threshold", vector(device, w.threshold())),
        w.subtractDecoderBias());
  }

  private static Tensor matrix(Device device, TensorEntry entry) {
    Tensor tensor = Tensor.allocate(device, entry.shape()[0], entry.shape()[1]);
    entry.copyTo(device, tensor);
    return tensor;
  }

  private static Tensor vector(Device device, TensorEntry entry) {
    Tensor tensor = Tensor.allocate(device, 1, entry.shape()[0]);
    entry.copyTo(device, tensor);
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

  /**
   * Ranking z times the decoder row's norm, and decoding divided by it, is ranking the z of these
   * weights.
   */
  private static void foldDecoderNorm(Tensor wEnc, Tensor bEnc, Tensor wDec) {
    for (long i = 0; i < wDec.rows(); i++) {
      double squares = 0;
      for (long c = 0; c < wDec.cols(); c++) {
        squares += (double) wDec.get(i, c) * wDec.get(i, c);
      }
      double norm = Math.sqrt(squares);
      if (norm > 0) {
        for (long c = 0; c < wDec.cols(); c++) {
          wDec.set(i, c, (float) (wDec.get(i, c) / norm));
          wEnc.set(i, c, (float) (wEnc.get(i, c) * norm));
        }
        bEnc.set(0, i, (float) (bEnc.get(0, i) * norm));
      }
    }
  }

  /** A norm is finite exactly if every value is: squares of float32 do not overflow float64. */
  private static boolean isFinite(Device device, Control control, Tensor tensor) {
    device.kernels().globalNorm(tensor.data(), tensor.size(), control.data());
    return Double.isFinite(control.gradientNorm());
  }
}
