package espalier.autograd;

import java.util.List;

/** RMSNorm (Zhang and Sennrich 2019). */
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
    Var out = tape.value(rows, d, x.needsGradient() || weight.isTrainable());
    Var rstd = tape.value(rows, 1);
    Var unused = x.needsGradient() ? null : tape.value(rows, d);
    Op op =
        tape.op("rmsNorm")
            .reads(x)
            .writes(out, rstd)
            .forward(
                k ->
                    k.rmsNormForward(
                        x.data(), weight.data(), offset, eps, out.data(), rstd.data(), rows, d))
            .backward(
                List.of(x, rstd),
                List.of(x),
                k ->
                    k.rmsNormBackward(
                        x.data(),
                        weight.data(),
                        offset,
                        rstd.data(),
                        out.gradientData(),
                        unused == null ? x.gradientData() : unused.data(),
                        unused == null && x.accumulates(),
                        weight.gradientData(),
                        rows,
                        d));
    if (unused != null) { // the kernel always computes the input's gradient
      op.backwardScratch(unused);
    }
    return out;
  }
}
