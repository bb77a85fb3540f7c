package espalier.nn;

import espalier.autograd.Elementwise;
import espalier.autograd.Tape;
import espalier.autograd.Var;

/** A pre-norm transformer block: x + attention(norm(x)), then + mlp(norm(.)). */
public record DecoderBlock(
    RmsNorm attentionNorm, Attention attention, RmsNorm mlpNorm, GatedMlp mlp) {

  /**
   * @param x the residual stream {@code [batch * seqLen, hidden]}
   * @return the residual stream after the block
   */
  public Var forward(Tape tape, Var x, long seqLen, Adapters adapters) {
    Var attended = attention.forward(tape, attentionNorm.forward(tape, x), seqLen, adapters);
    Var middle = Elementwise.residual(tape, x, attended);
    Var transformed = mlp.forward(tape, mlpNorm.forward(tape, middle), adapters);
    return Elementwise.residual(tape, middle, transformed);
  }
}
