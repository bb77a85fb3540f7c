package espalier.sae;

/**
 * The part of an SAE's training loss that acts on its latents rather than on its output.
 * Coefficients are those of the whole loss, already divided by the number of tokens; they may
 * change from step to step.
 */
public final class Sparsity {

  private final float bandwidth;
  private float l1;
  private float l0;

  /**
   * @param bandwidth of the straight-through gradient of thresholds
   */
  public Sparsity(float bandwidth) {
    this.bandwidth = bandwidth;
  }

  /** No sparsity loss: what a frozen SAE has. */
  public static Sparsity none() {
    return new Sparsity(1e-3f);
  }

  public float bandwidth() {
    return bandwidth;
  }

  /** Coefficient of the sum of active values. */
  public float l1() {
    return l1;
  }

  /** Coefficient of the number of active latents, through the straight-through gradient. */
  public float l0() {
    return l0;
  }

  public void set(float l1, float l0) {
    this.l1 = l1;
    this.l0 = l0;
  }
}
