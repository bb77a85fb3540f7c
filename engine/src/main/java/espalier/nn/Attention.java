package espalier.nn;

import espalier.autograd.CausalAttention;
import espalier.autograd.Tape;
import espalier.autograd.Var;

/**
 * Self-attention.
 *
 * @param qkv query, key and value projections, stacked
 * @param norms of the heads; null for none
 * @param out the output projection
 */
public record Attention(Linear qkv, HeadNorms norms, CausalAttention core, Linear out) {

  public Var forward(Tape tape, Var x, long seqLen, Adapters adapters, Taps taps) {
    Var heads = qkv.forward(tape, x, adapters);
    if (norms != null) {
      heads = norms.forward(tape, heads, core.heads(), core.kvHeads());
    }
    return out.forward(tape, taps.attentionHeads(core.apply(tape, heads, seqLen)), adapters);
  }
}
