package espalier.nn;

import espalier.autograd.Activation;
import espalier.autograd.Tape;
import espalier.autograd.Var;

/** out(act(in x)). */
public record PlainMlp(Linear in, Activation.Kind activation, Linear out) implements Mlp {

  @Override
  public Var forward(Tape tape, Var x, Adapters adapters) {
    return out.forward(
        tape, Activation.apply(tape, in.forward(tape, x, adapters), activation), adapters);
  }
}
