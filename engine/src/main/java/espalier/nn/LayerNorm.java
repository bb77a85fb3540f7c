package espalier.nn;

import espalier.autograd.Normalization;
import espalier.autograd.Parameter;
import espalier.autograd.Tape;
import espalier.autograd.Var;

/**
 * LayerNorm (Ba et al. 2016).
 *
 * @param weight {@code [1, d]}
 * @param bias {@code [1, d]}
 */
public record LayerNorm(Parameter weight, Parameter bias, float eps) implements Norm {

  @Override
  public Var forward(Tape tape, Var x) {
    return Normalization.layerNorm(tape, x, weight, bias, eps);
  }
}
