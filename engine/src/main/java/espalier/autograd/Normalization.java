package espalier.autograd;

import java.util.List;

/** RMSNorm (Zhang and Sennrich 2019) and LayerNorm (Ba et al. 2016). */
public final class Normalization {

  private Normalization() {}

  /**
   * out = x / rms(x) * (offset + weight) over each row.
   *
   * @param x {@code [tokens, d]}
   * @param weight {@code [1, d]}
   * @param offset 0 for Llama, 1 for Gemma
   */
  public static Var rmsNorm(Tape tape, Var x, Parameter weight, float offset, float eps) {
    if (weight.value().size() != x.cols()) {
      throw new IllegalArgumentException("RMSNorm of " + x + " with " + weight.value().size());
    }
    long rows = x.rows();
    long d = x.cols();
    Var out = tape.valueWithRoom(rows, d, x.needsGradient() || weight.isTrainable());
    Var rstd = tape.value(rows, 1);
    Var unused = x.needsGradient() ? null : tape.value(rows, d);
    Part.Rms norm = new Part.Rms(x, weight, offset, eps, out, rstd);
    Op op =
        tape.op("rmsNorm")
            .as(norm)
            .reads(x)
            .writes(out, rstd)
            .forward(
                k ->
                    k.rmsNormForward(
                        x.data(),
                        weight.data(),
                        offset,
                        eps,
                        out.value().data(),
                        out.value().stride(),
                        rstd.data(),
                        rows,
                        d))
            .backward(
                List.of(x, rstd),
                List.of(x),
                k ->
                    norm.backward(
                        k,
                        out.gradientData(),
                        unused == null ? x.gradientData() : unused.data(),
                        unused == null && x.accumulates()));
    if (unused != null) { // the kernel always computes the input's gradient
      op.backwardScratch(unused);
    }
    return out;
  }

  /**
   * out = (x - mean) / std * weight + bias over each row.
   *
   * @param x {@code [tokens, d]}
   * @param weight {@code [1, d]}
   * @param bias {@code [1, d]}, trained if the weight is
   */
  public static Var layerNorm(Tape tape, Var x, Parameter weight, Parameter bias, float eps) {
    if (weight.value().size() != x.cols() || bias.value().size() != x.cols()) {
      throw new IllegalArgumentException("LayerNorm of " + x + " with " + weight.value().size());
    }
    bothOrNone(weight, bias);
    long rows = x.rows();
    long d = x.cols();
    Var out = tape.valueWithRoom(rows, d, x.needsGradient() || weight.isTrainable());
    Var mean = tape.value(rows, 1);
    Var rstd = tape.value(rows, 1);
    Var unused = x.needsGradient() ? null : tape.value(rows, d);
    Part.Layer norm = new Part.Layer(x, weight, bias, eps, out, mean, rstd);
    Op op =
        tape.op("layerNorm")
            .as(norm)
            .reads(x)
            .writes(out, mean, rstd)
            .forward(
                k ->
                    k.layerNormForward(
                        x.data(),
                        weight.data(),
                        bias.data(),
                        eps,
                        out.value().data(),
                        out.value().stride(),
                        mean.data(),
                        rstd.data(),
                        rows,
                        d))
            .backward(
                List.of(x, mean, rstd),
                List.of(x),
                k ->
                    norm.backward(
                        k,
                        out.gradientData(),
                        unused == null ? x.gradientData() : unused.data(),
                        unused == null && x.accumulates()));
    if (unused != null) { // the kernel always computes the input's gradient
      op.backwardScratch(unused);
    }
    return out;
  }

  /**
   * RMSNorm of each query and key head of a fused projection (Henry et al. 2020); the values are
   * copied.
   *
   * @param qkv {@code [tokens, (heads + 2 kvHeads) * headDim]}: queries, then keys, then values
   * @param query {@code [1, headDim]}, for all query heads; key alike, trained if query is
   */
  public static Var heads(
      Tape tape,
      Var qkv,
      Parameter query,
      Parameter key,
      float offset,
      float eps,
      long heads,
      long kvHeads) {
    long tokens = qkv.rows();
    long headDim = query.value().size();
    if (qkv.cols() != (heads + 2 * kvHeads) * headDim || key.value().size() != headDim) {
      throw new IllegalArgumentException("heads of " + headDim + " elements in " + qkv);
    }
    bothOrNone(query, key);
    Var out = tape.value(tokens, qkv.cols(), qkv.needsGradient() || query.isTrainable());
    Var rstd = tape.value(tokens, heads + kvHeads);
    Var unused = qkv.needsGradient() ? null : tape.value(tokens, qkv.cols());
    Op op =
        tape.op("headNorm")
            .reads(qkv)
            .writes(out, rstd)
            .forward(
                k ->
                    k.headNormForward(
                        qkv.data(),
                        query.data(),
                        key.data(),
                        offset,
                        eps,
                        out.data(),
                        rstd.data(),
                        tokens,
                        heads,
                        kvHeads,
                        headDim))
            .backward(
                List.of(qkv, rstd),
                List.of(qkv),
                k -> {
                  if (unused == null && qkv.accumulates()) {
                    throw new IllegalStateException("the projection is read by its norm only");
                  }
                  k.headNormBackward(
                      qkv.data(),
                      query.data(),
                      key.data(),
                      offset,
                      rstd.data(),
                      out.gradientData(),
                      unused == null ? qkv.gradientData() : unused.data(),
                      query.gradientData(),
                      key.gradientData(),
                      tokens,
                      heads,
                      kvHeads,
                      headDim);
                });
    if (unused != null) {
      op.backwardScratch(unused);
    }
    return out;
  }

  private static void bothOrNone(Parameter first, Parameter second) {
    if (first.isTrainable() != second.isTrainable()) {
      throw new IllegalArgumentException(
          first.name() + " and " + second.name() + " are trained together or not at all");
    }
  }
}
