package espalier.nn;

import espalier.autograd.CausalAttention;
import espalier.autograd.Tape;
import espalier.autograd.Var;

/**
 * Self-attention.
 *
 * @param qkv query, key and value projections, stacked
 * @param out the output projection
 */
public record Attention(Linear qkv, CausalAttention core, Linear out) {

  public Var forward(Tape tape, Var x, long seqLen, Adapters adapters) {
    return out.forward(tape, core.apply(tape, qkv.forward(tape, x, adapters), seqLen), adapters);
  }
}
