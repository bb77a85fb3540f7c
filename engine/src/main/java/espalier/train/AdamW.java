package espalier.train;

import espalier.autograd.ParameterSet;
import espalier.device.Control;
import espalier.device.Device;
import espalier.tensor.Tensor;

/**
 * AdamW over the flat buffer of all trained parameters (Loshchilov and Hutter 2019), with clipping
 * by the global norm.
 *
 * @param firstMoment of the gradients, one row as long as the parameters
 * @param secondMoment likewise
 */
public record AdamW(
    ParameterSet parameters,
    Hyperparameters settings,
    Tensor firstMoment,
    Tensor secondMoment,
    Control control) {

  /**
   * @param clip largest global gradient norm; 0 for no clipping
   */
  public record Hyperparameters(
      double beta1, double beta2, double eps, double weightDecay, double clip) {

    /** The defaults of torch.optim.AdamW but for the two given. */
    public static Hyperparameters of(double weightDecay, double clip) {
      return new Hyperparameters(0.9, 0.999, 1e-8, weightDecay, clip);
    }
  }

  public static AdamW create(
      Device device, ParameterSet parameters, Hyperparameters settings, Control control) {
    Tensor m = Tensor.allocate(device, 1, parameters.size());
    Tensor v = Tensor.allocate(device, 1, parameters.size());
    device.kernels().fill(m.data(), 0, m.size());
    device.kernels().fill(v.data(), 0, v.size());
    return new AdamW(parameters, settings, m, v, control);
  }

  /** Norm of all gradients together, before clipping; {@link #update} clips by it. */
  public double gradientNorm(Device device) {
    device.kernels().globalNorm(parameters.gradients().data(), parameters.size(), control.data());
    return control.gradientNorm();
  }

  /**
   * One update from the gradients as they stand.
   *
   * @param step counted from 1, for the bias correction
   */
  public void update(Device device, long step, double lr) {
    control.step(step);
    control.learningRate(lr);
    device
        .kernels()
        .adamw(
            parameters.values().data(),
            parameters.gradients().data(),
            firstMoment.data(),
            secondMoment.data(),
            parameters.size(),
            (float) settings.beta1,
            (float) settings.beta2,
            (float) settings.eps,
            (float) settings.weightDecay,
            (float) settings.clip,
            control.data());
  }
}
