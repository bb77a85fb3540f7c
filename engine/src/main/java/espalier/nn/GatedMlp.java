package espalier.nn;

import espalier.autograd.GatedActivation;
import espalier.autograd.Tape;
import espalier.autograd.Var;

/**
 * down(act(gate x) * up x).
 *
 * @param gateUp gate and up projections, stacked
 */
public record GatedMlp(Linear gateUp, GatedActivation.Kind activation, Linear down) {

  public Var forward(Tape tape, Var x, Adapters adapters) {
    Var hidden = GatedActivation.apply(tape, gateUp.forward(tape, x, adapters), activation);
    return down.forward(tape, hidden, adapters);
  }
}
