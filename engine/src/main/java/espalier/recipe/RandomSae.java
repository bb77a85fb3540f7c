package espalier.recipe;

import espalier.autograd.Parameter;
import espalier.device.Device;
import espalier.device.ElementType;
import espalier.format.SaeWeights.Activation;
import espalier.sae.Sae;
import espalier.tensor.Tensor;
import java.util.Arrays;

/** A JumpReLU SAE of random weights, made on the device, with as many active latents as asked. */
final class RandomSae {

  /** The threshold is found from all latents of this many tokens. */
  private static final long SAMPLE = 16;

  private RandomSae() {}

  /**
   * An SAE whose rows have a length of about 1. Its threshold is undefined until {@link #fit} sets
   * it.
   */
  static Sae of(Device device, long width, long m, long seed) {
    float bound = (float) Math.sqrt(3.0 / width);
    return Sae.plain(
        Activation.JUMPRELU,
        0,
        matrix(device, "W_enc", width, m, bound, seed),
        zeros(device, "b_enc", m),
        matrix(device, "W_dec", width, m, bound, seed + 1),
        zeros(device, "b_dec", width),
        Parameter.frozen("threshold", Tensor.allocate(device, 1, m)),
        false);
  }

  private static Parameter matrix(
      Device device, String name, long width, long m, float bound, long seed) {
    Tensor tensor = Tensor.allocate(device, m, width, device.type());
    device.kernels().fillUniform(tensor.data(), bound, seed, tensor.size());
    return Parameter.frozen(name, tensor);
  }

  private static Parameter zeros(Device device, String name, long size) {
    Tensor tensor = Tensor.allocate(device, 1, size);
    device.kernels().fill(tensor.data(), 0, size);
    return Parameter.frozen(name, tensor);
  }

  /**
   * Sets the threshold, one for all latents, so that {@code l0} of them lie above it on average.
   *
   * @param x {@code [tokens, width]}, of which a few tokens are looked at
   */
  static void fit(Device device, Sae sae, Tensor x, int l0) {
    long tokens = Math.min(SAMPLE, x.rows());
    long stride = x.rows() / tokens * x.stride();
    Tensor z = Tensor.allocate(device, tokens, sae.latents());
    device
        .kernels()
        .gemm(
            false,
            true,
            tokens,
            sae.latents(),
            sae.inputs(),
            1,
            x.data(),
            stride,
            sae.wEnc().matrix().data(),
            sae.inputs(),
            0,
            z.data(),
            z.stride(),
            ElementType.F32);
    float[] values = z.toArray();
    Arrays.sort(values);
    int above = Math.toIntExact(Math.min(tokens * l0, values.length / 4));
    float threshold = values[values.length - 1 - above];
    device.kernels().fill(sae.threshold().data(), threshold, sae.latents());
  }
}
