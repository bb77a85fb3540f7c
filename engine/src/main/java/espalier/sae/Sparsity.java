package espalier.sae;

import espalier.device.Device;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/**
 * The part of an SAE's training loss that acts on its latents rather than on its output.
 * Coefficients are those of the whole loss, already divided by the number of tokens. They may
 * change from step to step, so they lie in device memory.
 */
public final class Sparsity {

  private final float bandwidth;
  private final Tensor coefficients; // l1, l0, strength of the pull towards a number of latents

  /**
   * @param bandwidth of the straight-through gradient of thresholds
   */
  public Sparsity(Device device, float bandwidth) {
    this.bandwidth = bandwidth;
    coefficients = Tensor.allocate(device, 1, 3);
    set(0, 0, 0);
  }

  public float bandwidth() {
    return bandwidth;
  }

  /** {@code {l1, l0, strength}}, as esp_sae_activation_backward and esp_sae_l0_pull read them. */
  public MemorySegment data() {
    return coefficients.data();
  }

  /**
   * @param l1 coefficient of the sum of active values
   * @param l0 coefficient of the number of active latents, through the straight-through gradient
   * @param strength of a pull towards a number of active latents, which then sets l0 anew in every
   *     batch
   */
  public void set(float l1, float l0, float strength) {
    coefficients.copyFrom(l1, l0, strength);
  }
}
