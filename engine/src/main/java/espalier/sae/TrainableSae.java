package espalier.sae;

import espalier.autograd.Parameter;
import espalier.autograd.ParameterSet;
import espalier.device.Device;
import espalier.format.SaeWeights.Activation;
import espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.random.RandomGenerator;

/**
 * An SAE with the parameters that train it. It works on activations divided by their scale, so that
 * learning rates, thresholds and bandwidths mean the same on every model; {@link #folded} takes the
 * scale into the weights.
 *
 * @param sae over scaled activations, its parameters in {@code parameters}
 * @param scale root mean square of the activations around their mean
 */
public record TrainableSae(Sae sae, ParameterSet parameters, float scale) {

  /**
   * An untrained SAE: decoder rows of random direction and norm 1, the encoder their transpose, the
   * decoder's bias at the activations' mean.
   *
   * @param sample activations {@code [n, d]}, from which mean, scale and first thresholds are taken
   * @param l0 active latents aimed at: k of a TopK SAE; thresholds start where twice as many are
   *     active
   */
  public static TrainableSae create(
      Device device, Activation kind, long latents, int l0, Tensor sample, RandomGenerator random) {
    long d = sample.cols();
    List<ParameterSet.Shape> shapes = new ArrayList<>();
    shapes.add(new ParameterSet.Shape("W_enc", latents, d));
    shapes.add(new ParameterSet.Shape("b_enc", 1, latents));
    shapes.add(new ParameterSet.Shape("W_dec", latents, d));
    shapes.add(new ParameterSet.Shape("b_dec", 1, d));
    if (kind == Activation.JUMPRELU) {
      shapes.add(new ParameterSet.Shape("threshold", 1, latents));
    }
    ParameterSet parameters = new ParameterSet(device, shapes);
    Sae sae =
        Sae.plain(
            kind,
            kind == Activation.TOPK ? l0 : 0,
            parameters.get("W_enc"),
            parameters.get("b_enc"),
            parameters.get("W_dec"),
            parameters.get("b_dec"),
            kind == Activation.JUMPRELU ? parameters.get("threshold") : null,
            true);
    float[] mean = mean(sample);
    float scale = deviation(sample, mean);
    for (int c = 0; c < d; c++) {
      mean[c] /= scale;
    }
    sae.bDec().value().copyFrom(mean);
    Parameter wDec = sae.wDec();
    float[] directions = new float[Math.toIntExact(wDec.value().size())];
    for (int i = 0; i < directions.length; i++) {
      directions[i] = (float) random.nextGaussian();
    }
    wDec.value().copyFrom(directions);
    device.kernels().normalizeRows(wDec.value().data(), latents, d);
    device.kernels().copy(wDec.data(), sae.wEnc().data(), wDec.value().size());
    TrainableSae trainable = new TrainableSae(sae, parameters, scale);
    if (kind == Activation.JUMPRELU) {
      double share = Math.min(0.5, 2.0 * l0 / latents);
      float threshold = trainable.preActivationQuantile(sample, share);
      device.kernels().fill(sae.threshold().data(), threshold, latents);
    }
    return trainable;
  }

  /** The SAE for activations as they are: scale folded in, nothing to train, memory of its own. */
  public Sae folded(Device device) {
    return Sae.plain(
        sae.activation(),
        sae.k(),
        copy(device, sae.wEnc(), 1 / scale),
        copy(device, sae.bEnc(), 1),
        copy(device, sae.wDec(), scale),
        copy(device, sae.bDec(), scale),
        sae.threshold() == null ? null : copy(device, sae.threshold(), 1),
        sae.subtractsDecoderBias());
  }

  /**
   * Overwrites {@code target}, made by {@link #folded} before, with the parameters as they stand.
   */
  public void foldInto(Device device, Sae target) {
    write(device, sae.wEnc(), 1 / scale, target.wEnc().value());
    write(device, sae.bEnc(), 1, target.bEnc().value());
    write(device, sae.wDec(), scale, target.wDec().value());
    write(device, sae.bDec(), scale, target.bDec().value());
    if (sae.threshold() != null) {
      write(device, sae.threshold(), 1, target.threshold().value());
    }
  }

  /** Takes from the decoder's gradient what would change the norm of its rows. */
  public void projectDecoderGradient(Device device) {
    Parameter wDec = sae.wDec();
    device
        .kernels()
        .removeParallel(wDec.value().data(), wDec.gradientData(), wDec.rows(), wDec.cols());
  }

  /** Gives the decoder's rows norm 1 again. */
  public void normalizeDecoder(Device device) {
    device.kernels().normalizeRows(sae.wDec().value().data(), sae.latents(), sae.inputs());
  }

  private static Parameter copy(Device device, Parameter from, float factor) {
    Tensor value = Tensor.allocate(device, from.rows(), from.cols());
    write(device, from, factor, value);
    return Parameter.frozen(from.name(), value);
  }

  private static void write(Device device, Parameter from, float factor, Tensor to) {
    device.kernels().fill(to.data(), 0, to.size());
    device.kernels().axpy(factor, from.data(), to.data(), to.size());
  }

  private static float[] mean(Tensor sample) {
    double[] sum = new double[(int) sample.cols()];
    float[] values = sample.toArray();
    for (int i = 0; i < values.length; i++) {
      sum[i % sum.length] += values[i];
    }
    float[] mean = new float[sum.length];
    for (int c = 0; c < sum.length; c++) {
      mean[c] = (float) (sum[c] / sample.rows());
    }
    return mean;
  }

  private static float deviation(Tensor sample, float[] mean) {
    double sum = 0;
    float[] values = sample.toArray();
    for (int i = 0; i < values.length; i++) {
      double x = values[i] - mean[i % mean.length];
      sum += x * x;
    }
    return (float) Math.sqrt(sum / sample.size());
  }

  /**
   * The pre-activation that a given share of all (token, latent) pairs exceeds, measured on the
   * sample's first rows and the SAE's first latents.
   */
  private float preActivationQuantile(Tensor sample, double share) {
    int rows = (int) Math.min(256, sample.rows());
    int latents = (int) Math.min(64, sae.latents());
    float[] z = new float[rows * latents];
    int d = Math.toIntExact(sample.cols());
    float[] x = sample.rows(0, rows).toArray();
    float[] w = sae.wEnc().value().rows(0, latents).toArray();
    float[] b = sae.bDec().value().toArray();
    for (int r = 0; r < rows; r++) {
      for (int i = 0; i < latents; i++) {
        double sum = 0;
        for (int c = 0; c < d; c++) {
          double centred = x[r * d + c] / scale - b[c];
          sum += centred * w[i * d + c];
        }
        z[r * latents + i] = (float) sum;
      }
    }
    Arrays.sort(z);
    return z[(int) ((1 - share) * (z.length - 1))];
  }
}
