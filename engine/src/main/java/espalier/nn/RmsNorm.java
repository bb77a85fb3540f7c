package espalier.nn;

import espalier.autograd.Normalization;
import espalier.autograd.Parameter;
import espalier.autograd.Tape;
import espalier.autograd.Var;

/**
 * RMSNorm with a learned gain.
 *
 * @param weight {@code [1, d]}
 * @param offset added to the weight: 0 for Llama, 1 for Gemma
 */
public record RmsNorm(Parameter weight, float offset, float eps) implements Norm {

  @Override
  public Var forward(Tape tape, Var x) {
    return Normalization.rmsNorm(tape, x, weight, offset, eps);
  }
}
