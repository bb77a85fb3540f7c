package espalier;

import espalier.device.Device;
import espalier.format.SaeLensWriter;
import espalier.format.SaeWeights.Activation;
import espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Random;

/** Writes SAEs that are wide enough for several ranks; equal latents lie far apart. */
public final class WideSae {

  private WideSae() {}

  /**
   * @param k of TopK, else unused
   */
  public static void write(Path folder, Activation activation, int d, int m, int k) {
    write(folder, activation, d, m, k, 1);
  }

  /**
   * @param thresholds the deviation of JumpReLU's, of whose sizes it has them; else unused
   */
  public static void write(
      Path folder, Activation activation, int d, int m, int k, double thresholds) {
    Random random = new Random(7);
    try (Device device = Device.open()) {
      Tensor encoder = gaussians(device, random, d, m, 0.3);
      Tensor bias = gaussians(device, random, 1, m, 0.1);
      for (int i = 0; i + m / 2 < m; i += 5) {
        bias.set(0, i + m / 2, bias.get(0, i));
        for (int c = 0; c < d; c++) {
          encoder.set(c, i + m / 2, encoder.get(c, i));
        }
      }
      Tensor threshold = Tensor.allocate(device, 1, m);
      for (int i = 0; i < m; i++) {
        threshold.set(0, i, (float) (thresholds * Math.abs(random.nextGaussian())));
      }
      SaeLensWriter.write(
          folder,
          new SaeLensWriter.Output(
              activation,
              encoder,
              bias,
              gaussians(device, random, m, d, 0.05),
              gaussians(device, random, 1, d, 0.1),
              activation == Activation.JUMPRELU ? threshold : null,
              null,
              k,
              true,
              "blocks.1.hook_resid_post",
              "llama",
              24,
              true));
    }
  }

  private static Tensor gaussians(
      Device device, Random random, int rows, int cols, double deviation) {
    float[] values = new float[rows * cols];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) (deviation * random.nextGaussian());
    }
    Tensor tensor = Tensor.allocate(device, rows, cols);
    tensor.copyFrom(values);
    return tensor;
  }
}
