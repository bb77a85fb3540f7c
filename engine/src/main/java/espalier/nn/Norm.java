package espalier.nn;

import espalier.autograd.Normalization;
import espalier.autograd.Tape;
import espalier.autograd.Var;

/** A normalisation of each row with a learned gain. */
public sealed interface Norm permits RmsNorm, LayerNorm {
  Var forward(Tape tape, Var x);

  /** The residual sum of x and branch, and its norm, in one pass. */
  Normalization.Summed forwardSum(Tape tape, Var x, Var branch);
}
