package espalier.autograd;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.device.Device;
import espalier.tensor.Tensor;

/** A bound tape that ends in losses of tokens, and what it trains. */
record TrainedLoss(Device device, Tape tape, ParameterSet trained, Var losses) {

  /** The sum over tokens. */
  double loss() {
    tape.forward();
    double sum = 0;
    for (float ce : losses.value().toArray()) {
      sum += ce;
    }
    return sum;
  }

  /** Of one step, in the order of the parameters. */
  float[] gradients() {
    device.kernels().fill(trained.gradients().data(), 0, trained.size());
    tape.forward();
    tape.backward();
    return trained.gradients().toArray();
  }

  /**
   * Along a parameter's gradient the loss rises by the gradient's norm. float32 losses near 60
   * carry about 1e-5; over a step of 2e-2 that is 1e-3 of slopes near 1, beside the third-order
   * term of the central difference.
   */
  void assertGradientsAreSlopes(String what) {
    float[] gradients = gradients();
    for (Parameter parameter : trained.parameters()) {
      Tensor value = parameter.value();
      float[] before = value.toArray();
      float[] gradient = parameter.gradient().toArray();
      double norm = 0;
      for (float g : gradient) {
        norm += g * g;
      }
      norm = Math.sqrt(norm);
      double step = 1e-2;
      double[] losses = new double[2];
      for (int side = 0; side < 2; side++) {
        float[] moved = before.clone();
        for (int i = 0; i < moved.length; i++) {
          moved[i] += (float) ((side == 0 ? -step : step) * gradient[i] / norm);
        }
        value.copyFrom(moved);
        losses[side] = loss();
      }
      value.copyFrom(before);
      double slope = (losses[1] - losses[0]) / (2 * step);
      assertEquals(norm, slope, 1e-2 * norm + 2e-3, parameter.name() + ", " + what);
    }
    assertArrayEquals(gradients, gradients());
  }
}
