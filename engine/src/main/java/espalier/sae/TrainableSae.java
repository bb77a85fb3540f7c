package espalier.sae;

import espalier.autograd.Parameter;
import espalier.autograd.ParameterSet;
import espalier.device.Device;
import espalier.device.ElementType;
import espalier.format.SaeSite;
import espalier.format.SaeWeights.Activation;
import espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.random.RandomGenerator;

/**
 * An SAE with the parameters that train it. A new one works on activations divided by their scale,
 * so that learning rates, thresholds and bandwidths mean the same on every model; {@link #folded}
 * takes the scale into the weights.
 *
 * @param sae over scaled activations, its parameters trained; of a gated one b_enc is the bias of
 *     its gates
 * @param gates null unless gated
 * @param scale what activations are divided by: their root mean square around their mean; 1 for an
 *     SAE from a file, whose weights keep their units
 * @param variance mean square around their mean of what the SAE reads, activations so divided: what
 *     its squared errors are fractions of
 * @param unitDecoder whether decoder rows keep norm 1
 * @param silent {@code [1, m]}: tokens since each latent was active, see esp_sae_activity; as of
 *     the last step, like the threshold ({@link Course})
 * @param batchThreshold {@code [1, 1]}: the running smallest value that a batch keeps, negative
 *     before the first; see esp_sae_follow
 */
public record TrainableSae(
    SaeDesign design,
    Sae sae,
    Gates gates,
    float scale,
    double variance,
    boolean unitDecoder,
    Tensor silent,
    Tensor batchThreshold) {

  /** Rows that are copied at a time: all together may be more than an array holds. */
  private static final int ROWS_AT_ONCE = 4096;

  /** Magnitudes of a gated SAE, each {@code [1, m]}: relu(exp(r_mag) wEnc (x - bPre) + b_mag). */
  public record Gates(Parameter rMag, Parameter bMag) {}

  /**
   * The parameters of an SAE over activations of width d, to be laid out with those of others.
   *
   * @param prefix of their names
   */
  public static List<ParameterSet.Shape> shapes(String prefix, SaeDesign design, long d) {
    long m = design.latents();
    List<ParameterSet.Shape> shapes = new ArrayList<>();
    shapes.add(new ParameterSet.Shape(prefix + "W_enc", m, d));
    shapes.add(new ParameterSet.Shape(prefix + "b_enc", 1, m));
    shapes.add(new ParameterSet.Shape(prefix + "W_dec", m, d));
    shapes.add(new ParameterSet.Shape(prefix + "b_dec", 1, d));
    switch (design.architecture()) {
      case JUMPRELU -> shapes.add(new ParameterSet.Shape(prefix + "threshold", 1, m));
      case GATED -> {
        shapes.add(new ParameterSet.Shape(prefix + "r_mag", 1, m));
        shapes.add(new ParameterSet.Shape(prefix + "b_mag", 1, m));
      }
      case STANDARD, TOPK, BATCHTOPK, MATRYOSHKA -> {}
    }
    return shapes;
  }

  /**
   * An SAE over parameters of {@link #shapes}, whatever values they have.
   *
   * @param subtractsDecoderBias whether b_dec is taken off the input before encoding
   */
  static TrainableSae over(
      Device device,
      ParameterSet parameters,
      String prefix,
      SaeDesign design,
      boolean subtractsDecoderBias,
      float scale,
      double variance,
      boolean unitDecoder) {
    boolean gated = design.architecture() == Architecture.GATED;
    boolean jump = design.architecture() == Architecture.JUMPRELU;
    Sae sae =
        Sae.plain(
            design.architecture().listed(),
            design.architecture().isCounted() ? design.k() : 0,
            parameters.get(prefix + "W_enc"),
            parameters.get(prefix + "b_enc"),
            parameters.get(prefix + "W_dec"),
            parameters.get(prefix + "b_dec"),
            jump ? parameters.get(prefix + "threshold") : null,
            subtractsDecoderBias);
    Tensor silent = Tensor.allocate(device, 1, design.latents());
    silent.copyFrom(new float[design.latents()]);
    Tensor batchThreshold = Tensor.allocate(device, 1, 1);
    batchThreshold.copyFrom(-1);
    return new TrainableSae(
        design,
        sae,
        gated
            ? new Gates(parameters.get(prefix + "r_mag"), parameters.get(prefix + "b_mag"))
            : null,
        scale,
        variance,
        unitDecoder,
        silent,
        batchThreshold);
  }

  /**
   * An untrained SAE: decoder rows of random direction and norm 1, the encoder their transpose,
   * smaller where nothing limits how many latents are active. Thresholds start where twice as many
   * latents are active as aimed at.
   *
   * @param parameters that hold {@link #shapes} under the prefix
   * @param sample from which centre, scale and first thresholds are taken
   */
  public static TrainableSae create(
      Device device,
      ParameterSet parameters,
      String prefix,
      SaeDesign design,
      ActivationSample sample,
      ActivationSample.Centre centre,
      RandomGenerator random) {
    float scale = (float) sample.deviation();
    TrainableSae trainable = over(device, parameters, prefix, design, true, scale, 1, true);
    Sae sae = trainable.sae;
    double[] start = sample.centre(centre);
    float[] bias = new float[start.length];
    for (int c = 0; c < bias.length; c++) {
      bias[c] = (float) (start[c] / scale);
    }
    sae.bDec().value().copyFrom(bias);
    Parameter wDec = sae.wDec();
    for (long i = 0; i < sae.latents(); i += ROWS_AT_ONCE) {
      Tensor rows = wDec.value().rows(i, Math.min(ROWS_AT_ONCE, sae.latents() - i));
      float[] directions = new float[Math.toIntExact(rows.size())];
      for (int j = 0; j < directions.length; j++) {
        directions[j] = (float) random.nextGaussian();
      }
      rows.copyFrom(directions);
    }
    trainable.normalizeDecoder(device);
    // Half of all latents of a ReLU are active: W_dec^T relu(W_dec x) is about m / (2 d) x.
    boolean all = design.architecture().listed() == Activation.RELU;
    float gain = all ? Math.min(1, 2f * sae.inputs() / design.latents()) : 1;
    write(device, wDec, gain, sae.wEnc().value());
    if (sae.threshold() != null) {
      double share = Math.min(0.5, 2.0 * design.k() / design.latents());
      float threshold = trainable.preActivationQuantile(sample, bias, share);
      device.kernels().fill(sae.threshold().data(), threshold, design.latents());
    }
    return trainable;
  }

  /** Whether an SAE can be trained further: a plain one of the residual stream, no GroupMax. */
  public static boolean canContinue(Sae sae) {
    return !sae.isNormalised()
        && sae.skip() == null
        && sae.inputs() == sae.outputs()
        && sae.site() == SaeSite.Kind.RESIDUAL
        && sae.activation() != Activation.GROUPMAX;
  }

  /**
   * The design of an SAE that was trained before, to be trained further.
   *
   * @param k active latents a JumpReLU SAE is to aim at; 0 for none
   */
  public static SaeDesign designOf(Sae sae, int k, float bandwidth, int deadAfter) {
    Architecture architecture =
        switch (sae.activation()) {
          case RELU -> Architecture.STANDARD;
          case JUMPRELU -> Architecture.JUMPRELU;
          case TOPK -> Architecture.TOPK;
          case GROUPMAX -> throw new IllegalArgumentException("GroupMax SAEs are not trained");
        };
    int m = Math.toIntExact(sae.latents());
    int active = architecture == Architecture.TOPK ? sae.k() : k;
    return new SaeDesign(architecture, m, active, List.of(m), bandwidth, deadAfter);
  }

  /**
   * A trained SAE to be trained further, for activations as they are: it starts with exactly what
   * it computes, so decoder rows keep the norms they have.
   *
   * @param parameters that hold {@link #shapes} under the prefix
   * @param design as {@link #designOf} says
   * @param variance of the activations; any number where no loss is one of the reconstruction
   */
  public static TrainableSae from(
      Device device,
      ParameterSet parameters,
      String prefix,
      SaeDesign design,
      Sae from,
      double variance) {
    if (!canContinue(from) || device.type() != ElementType.F32) {
      throw new IllegalArgumentException("only plain SAEs are trained, and in float32");
    }
    boolean tied = from.subtractsDecoderBias();
    TrainableSae trainable = over(device, parameters, prefix, design, tied, 1, variance, false);
    Sae to = trainable.sae;
    write(device, from.wEnc(), 1, to.wEnc().value());
    write(device, from.bEnc(), 1, to.bEnc().value());
    write(device, from.wDec(), 1, to.wDec().value());
    write(device, from.bDec(), 1, to.bDec().value());
    if (from.threshold() != null) {
      write(device, from.threshold(), 1, to.threshold().value());
    }
    if (!tied && from.bPre() != null) { // wEnc (x - bPre) + bEnc = wEnc x + (bEnc - wEnc bPre)
      device
          .kernels()
          .gemm(
              false,
              true,
              1,
              from.latents(),
              from.inputs(),
              -1,
              from.bPre().data(),
              from.inputs(),
              from.wEnc().data(),
              from.inputs(),
              1,
              to.bEnc().data(),
              from.latents());
    }
    return trainable;
  }

  /** The state that the run depends on beside the parameters, for checkpoints. */
  public List<Tensor> state() {
    return List.of(silent, batchThreshold);
  }

  /** The SAE for activations as they are: scale folded in, nothing to train, memory of its own. */
  public Sae folded(Device device) {
    boolean jumps = foldedActivation() == Activation.JUMPRELU;
    Sae target =
        Sae.plain(
            foldedActivation(),
            foldedActivation() == Activation.TOPK ? design.k() : 0,
            like(device, sae.wEnc()),
            like(device, sae.bEnc()),
            like(device, sae.wDec()),
            like(device, sae.bDec()),
            jumps ? Parameter.frozen("threshold", like(device, sae.bEnc()).value()) : null,
            sae.subtractsDecoderBias());
    foldInto(device, target);
    return target;
  }

  private Activation foldedActivation() {
    return switch (design.architecture()) {
      case STANDARD -> Activation.RELU;
      case TOPK -> Activation.TOPK;
      case GATED, JUMPRELU, BATCHTOPK, MATRYOSHKA -> Activation.JUMPRELU;
    };
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
    } else if (design.architecture().isBatchwide()) {
      float threshold = Math.max(0, batchThreshold.toArray()[0]);
      device.kernels().fill(target.threshold().data(), threshold, design.latents());
    } else if (gates != null) {
      foldGates(target);
    }
  }

  /**
   * With p = wEnc (x - bPre) and g = exp(r_mag): relu(g p + b_mag) where p + b_gate > 0 is a
   * JumpReLU of z = g p + b_mag with threshold b_mag - g b_gate (Rajamanoharan et al. 2024, arXiv
   * 2404.16014, appendix E).
   */
  private void foldGates(Sae target) {
    float[] rMag = gates.rMag.value().toArray();
    float[] bMag = gates.bMag.value().toArray();
    float[] bGate = sae.bEnc().value().toArray();
    float[] threshold = new float[rMag.length];
    int d = Math.toIntExact(sae.inputs());
    for (int first = 0; first < rMag.length; first += ROWS_AT_ONCE) {
      Tensor rows = target.wEnc().value().rows(first, Math.min(ROWS_AT_ONCE, rMag.length - first));
      float[] encoder = rows.toArray();
      for (int i = 0; i < rows.rows(); i++) {
        double g = Math.exp(rMag[first + i]);
        threshold[first + i] = (float) (bMag[first + i] - g * bGate[first + i]);
        for (int c = 0; c < d; c++) {
          encoder[i * d + c] *= (float) g;
        }
      }
      rows.copyFrom(encoder);
    }
    target.bEnc().value().copyFrom(bMag);
    target.threshold().value().copyFrom(threshold);
  }

  /** Takes from the decoder's gradient what would change the norm of its rows. */
  public void projectDecoderGradient(Device device) {
    if (unitDecoder) {
      Parameter wDec = sae.wDec();
      device
          .kernels()
          .removeParallel(wDec.value().data(), wDec.gradientData(), wDec.rows(), wDec.cols());
    }
  }

  /** Gives the decoder's rows norm 1 again. */
  public void normalizeDecoder(Device device) {
    if (unitDecoder) {
      device.kernels().normalizeRows(sae.wDec().value().data(), sae.latents(), sae.inputs());
    }
  }

  private static Parameter like(Device device, Parameter from) {
    return Parameter.frozen(from.name(), Tensor.allocate(device, from.rows(), from.cols()));
  }

  private static void write(Device device, Parameter from, float factor, Tensor to) {
    device.kernels().fill(to.data(), 0, to.size());
    device.kernels().axpy(factor, from.data(), to.data(), to.size());
  }

  /**
   * The pre-activation that a given share of all (token, latent) pairs exceeds, measured on the
   * sample's first rows and the SAE's first latents.
   */
  private float preActivationQuantile(ActivationSample sample, float[] bias, double share) {
    int rows = Math.min(256, sample.rows());
    int n = (int) Math.min(64, sae.latents());
    float[] encoder = sae.wEnc().value().rows(0, n).toArray();
    float[] z = new float[rows * n];
    for (int r = 0; r < rows; r++) {
      for (int i = 0; i < n; i++) {
        double sum = 0;
        for (int c = 0; c < bias.length; c++) {
          sum += (sample.value(r, c) / scale - bias[c]) * encoder[i * bias.length + c];
        }
        z[r * n + i] = (float) sum;
      }
    }
    Arrays.sort(z);
    return z[(int) ((1 - share) * (z.length - 1))];
  }
}
