package espalier.train;

import espalier.autograd.ParameterSet;
import espalier.device.Device;
import espalier.device.Kernels;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/**
 * AdamW over the flat buffer of all trained parameters (Loshchilov and Hutter 2019), with clipping
 * by the global norm.
 *
 * @param firstMoment {@code [1, n]} for n parameters: running mean of the gradients, float32
 * @param secondMoment {@code [1, n]}: running mean of their squares
 */
public record AdamW(
    ParameterSet parameters, Hyperparameters settings, Tensor firstMoment, Tensor secondMoment) {

  /**
   * @param clip largest global gradient norm; 0 for no clipping
   */
  public record Hyperparameters(
      double beta1, double beta2, double eps, double weightDecay, double clip) {

    /** The defaults of torch.optim.AdamW, except for the two arguments. */
    public static Hyperparameters of(double weightDecay, double clip) {
      return new Hyperparameters(0.9, 0.999, 1e-8, weightDecay, clip);
    }
  }

  public static AdamW create(Device device, ParameterSet parameters, Hyperparameters settings) {
    Tensor m = Tensor.allocate(device, 1, parameters.size());
    Tensor v = Tensor.allocate(device, 1, parameters.size());
    device.kernels().fill(m.data(), 0, m.size());
    device.kernels().fill(v.data(), 0, v.size());
    return new AdamW(parameters, settings, m, v);
  }

  /**
   * Queues the norm of all gradients together, and one update. Learning rate and step are those of
   * the device's {@link espalier.device.Control}. If the step has failed the update changes
   * nothing: see esp_adamw.
   */
  public void update(Device device) {
    Kernels kernels = device.kernels();
    MemorySegment control = device.control().data();
    MemorySegment gradients = parameters.gradients().data();
    kernels.globalNorm(gradients, parameters.size(), control);
    kernels.adamw(
        parameters.values().data(),
        gradients,
        firstMoment.data(),
        secondMoment.data(),
        parameters.size(),
        (float) settings.beta1,
        (float) settings.beta2,
        (float) settings.eps,
        (float) settings.weightDecay,
        (float) settings.clip,
        control);
  }
}
