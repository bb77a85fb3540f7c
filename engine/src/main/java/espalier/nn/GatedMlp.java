package espalier.nn;

import espalier.autograd.GatedActivation;
import espalier.autograd.Tape;
import espalier.autograd.Var;

/**
 * out(act(gate x) * up x) (Shazeer 2020).
 *
 * @param in gate and up projections, stacked
 */
public record GatedMlp(Linear in, GatedActivation.Kind activation, Linear out) implements Mlp {

  @Override
  public Var forward(Tape tape, Var x, Adapters adapters) {
    Var hidden = GatedActivation.apply(tape, in.forward(tape, x, adapters), activation);
    return out.forward(tape, hidden, adapters);
  }
}
