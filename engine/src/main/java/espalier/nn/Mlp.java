package espalier.nn;

import espalier.autograd.Tape;
import espalier.autograd.Var;

/** The part of a block that works on each token alone. */
public sealed interface Mlp permits GatedMlp, PlainMlp {

  Var forward(Tape tape, Var x, Adapters adapters);

  /** The layers that read the block's activations; one or two projections. */
  Linear in();

  /** The layer that leads back into the residual stream. */
  Linear out();
}
