package espalier.sae;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import java.lang.foreign.MemorySegment;

/**
 * Zeros instead of the activations, wherever an SAE would be applied: the worst that could stand
 * there. What the rest of the model does then is the yardstick for the loss recovered.
 */
public final class ZeroAblation {

  private ZeroAblation() {}

  /**
   * @param x {@code [tokens, d]}, no gradient
   * @param keep bytes {@code [tokens]} in device memory, 1 where x passes unchanged (BOS, EOS);
   *     NULL for nowhere
   */
  public static Var into(Tape tape, Var x, MemorySegment keep) {
    if (x.needsGradient()) {
      throw new IllegalArgumentException("zero ablation is measured, not trained through");
    }
    Var out = tape.value(x.rows(), x.cols(), false);
    tape.op("zeroAblation")
        .reads(x)
        .writes(out)
        .forward(k -> k.keepRows(x.data(), keep, out.data(), x.rows(), x.cols()));
    return out;
  }
}
