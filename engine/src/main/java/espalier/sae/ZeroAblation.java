package espalier.sae;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import java.lang.foreign.MemorySegment;

/**
 * The worst that an SAE's site can be replaced by: zeros, wherever the SAE would be applied. What
 * the rest of the model does without the site is the yardstick of the loss recovered.
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
