package espalier.autograd;

import espalier.device.Kernels;
import espalier.tensor.Tensor;
import java.util.List;

/**
 * Causal grouped-query attention on fused projections, rotary positions included.
 *
 * @param heads query heads
 * @param kvHeads key/value heads; divides {@code heads}
 * @param scale of the scores, usually 1/sqrt(headDim)
 * @param softcap of the scores; 0 for none
 * @param window how many keys back a query sees, itself included; 0 for all
 * @param cos {@code [positions, rotaryDim / 2]}, for as many positions as a sequence may have; null
 *     where positions are not rotary
 * @param sin likewise
 */
public record CausalAttention(
    long heads,
    long kvHeads,
    long headDim,
    float scale,
    float softcap,
    long window,
    Tensor cos,
    Tensor sin) {

  public CausalAttention {
    if (heads < 1 || kvHeads < 1 || heads % kvHeads != 0) {
      throw new IllegalArgumentException(heads + " heads share " + kvHeads + " key/value heads");
    }
  }

  /** Columns of the fused projection: queries, then keys, then values. */
  public long fusedCols() {
    return (heads + 2 * kvHeads) * headDim;
  }

  /**
   * @param qkv {@code [batch * seqLen, fusedCols]}; queries and keys are rotated in place, so
   *     nothing else may read it
   * @return {@code [batch * seqLen, heads * headDim]}
   */
  public Var apply(Tape tape, Var qkv, long seqLen) {
    long tokens = qkv.rows();
    if (qkv.cols() != fusedCols() || tokens % seqLen != 0 || (cos != null && seqLen > cos.rows())) {
      throw new IllegalArgumentException(
          "attention over " + qkv + ": " + fusedCols() + " columns needed, sequences of " + seqLen);
    }
    long batch = tokens / seqLen;
    long ld = qkv.cols();
    Var out = tape.valueWithRoom(tokens, heads * headDim, qkv.needsGradient());
    Var lse = tape.value(tokens, heads);
    Var delta = tape.value(tokens, heads);
    Var.Columns query = qkv.columns(0, heads * headDim);
    Var.Columns key = qkv.columns(heads * headDim, kvHeads * headDim);
    Var.Columns value = qkv.columns((heads + kvHeads) * headDim, kvHeads * headDim);
    tape.op("attention")
        .reads(qkv)
        .writes(out, lse)
        .forward(
            k -> {
              rotate(k, qkv.value(), 1, seqLen);
              k.attentionForward(
                  query.data(),
                  ld,
                  key.data(),
                  value.data(),
                  ld,
                  out.value().data(),
                  out.value().stride(),
                  lse.data(),
                  batch,
                  seqLen,
                  heads,
                  kvHeads,
                  headDim,
                  scale,
                  softcap,
                  window);
            })
        .backward(
            List.of(qkv, out, lse),
            List.of(qkv),
            k -> {
              if (qkv.accumulates()) {
                throw new IllegalStateException("the projection is read by attention only");
              }
              k.attentionBackward(
                  query.data(),
                  ld,
                  key.data(),
                  value.data(),
                  ld,
                  out.value().data(),
                  out.value().stride(),
                  lse.data(),
                  out.gradientData(),
                  delta.data(),
                  query.gradientData(),
                  key.gradientData(),
                  value.gradientData(),
                  batch,
                  seqLen,
                  heads,
                  kvHeads,
                  headDim,
                  scale,
                  softcap,
                  window);
              rotate(k, qkv.gradient(), -1, seqLen);
            })
        .backwardScratch(delta);
    return out;
  }

  /** Queries and keys lie side by side: one call turns the heads of both. */
  private void rotate(Kernels k, Tensor qkv, int sign, long seqLen) {
    if (cos != null) {
      k.rope(
          qkv.data(),
          qkv.cols(),
          cos.data(),
          sin.data(),
          sign,
          qkv.rows(),
          seqLen,
          heads + kvHeads,
          headDim,
          2 * cos.cols());
    }
  }
}
