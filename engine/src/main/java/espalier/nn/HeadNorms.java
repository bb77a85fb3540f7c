package espalier.nn;

import espalier.autograd.Normalization;
import espalier.autograd.Parameter;
import espalier.autograd.Tape;
import espalier.autograd.Var;

/**
 * RMSNorm of each query and key head (Henry et al. 2020).
 *
 * @param query gain of all query heads, {@code [1, headDim]}; key alike
 * @param offset added to the gains: 0 for Qwen 3, 1 for Gemma 3
 */
public record HeadNorms(Parameter query, Parameter key, float offset, float eps) {

  Var forward(Tape tape, Var qkv, long heads, long kvHeads) {
    return Normalization.heads(tape, qkv, query, key, offset, eps, heads, kvHeads);
  }
}
