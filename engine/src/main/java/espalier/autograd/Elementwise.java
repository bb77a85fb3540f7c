package espalier.autograd;

import java.util.List;

/** Sums and scalings of whole matrices. */
public final class Elementwise {

  private Elementwise() {}

  /** out = factor * x. */
  public static Var scale(Tape tape, Var x, float factor) {
    Var out = tape.value(x.rows(), x.cols(), x.needsGradient());
    long n = out.size();
    tape.op("scale")
        .reads(x)
        .writes(out)
        .forward(
            k -> {
              k.fill(out.data(), 0, n);
              k.axpy(factor, x.data(), out.data(), n);
            })
        .backward(
            List.of(),
            List.of(x),
            k -> {
              if (!x.accumulates()) {
                k.fill(x.gradientData(), 0, n);
              }
              k.axpy(factor, out.gradientData(), x.gradientData(), n);
            });
    return out;
  }

  /**
   * out = x + branch, the residual sum. Both gradients share the memory of the result's ({@link
   * SharedGradients}), so the backward pass costs nothing.
   */
  public static Var residual(Tape tape, Var x, Var branch) {
    if (x.rows() != branch.rows() || x.cols() != branch.cols()) {
      throw new IllegalArgumentException("residual sum of " + x + " and " + branch);
    }
    Var out = tape.value(x.rows(), x.cols(), x.needsGradient() || branch.needsGradient());
    for (Var input : List.of(x, branch)) {
      if (input.needsGradient()) {
        input.shareGradientWith(out);
      }
    }
    long n = out.size();
    tape.op("residual")
        .reads(x, branch)
        .writes(out)
        .forward(k -> k.add(x.data(), branch.data(), out.data(), n))
        .backward(
            List.of(),
            List.of(x, branch),
            k -> {
              x.accumulates(); // both hold the result's gradient from here on
              branch.accumulates();
            });
    return out;
  }
}
