package espalier.nn;

import espalier.autograd.Tape;
import espalier.autograd.Var;

/** A normalisation of each row with a learned gain. */
public sealed interface Norm permits RmsNorm, LayerNorm {
  Var forward(Tape tape, Var x);
}
