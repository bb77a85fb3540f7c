package espalier.sae;

import espalier.device.Device;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * The part of an SAE's training loss that acts on its latents rather than on its output.
 * Coefficients are those of the whole loss, already divided by the number of tokens. They may
 * change from step to step: the host prepares those of each batch, and they lie in device memory.
 */
public final class Sparsity {

  private static final int COEFFICIENTS = 3;
  private static final long BYTES = COEFFICIENTS * Float.BYTES;

  private final Device device;
  private final MemorySegment prepared; // [slots, 3]
  private final Tensor coefficients; // l1, l0, strength of the pull towards a number of latents

  /**
   * All coefficients are 0 until they are prepared.
   *
   * @param slots batches of a step
   */
  public Sparsity(Device device, int slots) {
    this.device = device;
    prepared = device.allocateStaging(slots * BYTES);
    coefficients = Tensor.allocate(device, 1, COEFFICIENTS);
    coefficients.copyFrom(0, 0, 0);
  }

  /** {@code {l1, l0, strength}}, as esp_sae_activation_backward and esp_sae_l0_pull read them. */
  MemorySegment data() {
    return coefficients.data();
  }

  /**
   * @param l1 coefficient of the sum of active values
   * @param l0 coefficient of the number of active latents, through the straight-through gradient
   * @param strength of a pull towards a number of active latents, which then sets l0 anew in every
   *     batch
   */
  public void prepare(int slot, float l1, float l0, float strength) {
    MemorySegment own = prepared.asSlice(slot * BYTES, BYTES);
    own.setAtIndex(ValueLayout.JAVA_FLOAT, 0, l1);
    own.setAtIndex(ValueLayout.JAVA_FLOAT, 1, l0);
    own.setAtIndex(ValueLayout.JAVA_FLOAT, 2, strength);
  }

  /** Queues the copy of a slot to the device. */
  public void upload(int slot) {
    device.upload(prepared.asSlice(slot * BYTES, BYTES), coefficients.data());
  }
}
