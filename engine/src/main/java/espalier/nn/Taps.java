package espalier.nn;

import espalier.autograd.Var;

/**
 * Places inside a block where activations may be replaced: each method is given what the block has
 * computed and returns what it goes on with, a matrix of the same shape.
 */
public interface Taps {

  /** Everything passes. */
  Taps NONE = new Taps() {};

  /** Outputs of all heads side by side, {@code [tokens, heads * headDim]}: the input of o_proj. */
  default Var attentionHeads(Var x) {
    return x;
  }

  /** What attention's output projection gives, before its own norm where the family has one. */
  default Var attentionModuleOut(Var x) {
    return x;
  }

  /** What attention adds to the residual stream, after that norm. */
  default Var attentionOut(Var x) {
    return x;
  }

  /** What the MLP's last layer gives, before its own norm where the family has one. */
  default Var mlpModuleOut(Var x) {
    return x;
  }

  /** What the MLP adds to the residual stream, after that norm. */
  default Var mlpOut(Var x) {
    return x;
  }
}
