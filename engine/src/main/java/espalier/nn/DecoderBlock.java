package espalier.nn;

import espalier.autograd.Elementwise;
import espalier.autograd.Tape;
import espalier.autograd.Var;

/**
 * A pre-norm transformer block: x + attention(norm(x)), then + mlp(norm(.)).
 *
 * @param attentionOutNorm normalises what attention adds, as in Gemma 2; null for none
 * @param mlpOutNorm likewise for the MLP
 * @param parallel whether the MLP reads the block's input, as attention does (Wang and Komatsuzaki
 *     2021)
 */
public record DecoderBlock(
    Norm attentionNorm,
    Attention attention,
    Norm attentionOutNorm,
    Norm mlpNorm,
    Mlp mlp,
    Norm mlpOutNorm,
    boolean parallel) {

  /**
   * @param x the residual stream {@code [batch * seqLen, hidden]}
   * @return the residual stream after the block
   */
  public Var forward(Tape tape, Var x, long seqLen, Adapters adapters, Taps taps) {
    Var attentionIn = attentionNorm.forward(tape, x);
    // Both norms first: contributions to x's gradient come after the branches have read theirs.
    Var parallelIn = parallel ? mlpNorm.forward(tape, x) : null;
    Var projected =
        taps.attentionModuleOut(attention.forward(tape, attentionIn, seqLen, adapters, taps));
    Var attended = taps.attentionOut(normed(tape, attentionOutNorm, projected));
    if (parallel) {
      Var transformed = mlpOut(tape, parallelIn, adapters, taps);
      return Elementwise.residual(tape, Elementwise.residual(tape, x, attended), transformed);
    }
    Var middle = Elementwise.residual(tape, x, attended);
    Var transformed = mlpOut(tape, mlpNorm.forward(tape, middle), adapters, taps);
    return Elementwise.residual(tape, middle, transformed);
  }

  private Var mlpOut(Tape tape, Var x, Adapters adapters, Taps taps) {
    Var transformed = taps.mlpModuleOut(mlp.forward(tape, x, adapters));
    return taps.mlpOut(normed(tape, mlpOutNorm, transformed));
  }

  private static Var normed(Tape tape, Norm norm, Var branch) {
    return norm == null ? branch : norm.forward(tape, branch);
  }
}
