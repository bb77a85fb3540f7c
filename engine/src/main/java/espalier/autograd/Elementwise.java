package espalier.autograd;

import java.lang.foreign.MemorySegment;
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
    Var out = sumOf(tape, x, branch);
    long n = out.size();
    tape.op("residual")
        .as(new Part.Residual(x, branch, out))
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

  /**
   * out = x + branch, but x where keep.
   *
   * @param keep bytes {@code [rows]} in device memory; NULL: nowhere
   */
  public static Var addUnless(Tape tape, Var x, Var branch, MemorySegment keep) {
    if (x.rows() != branch.rows() || x.cols() != branch.cols()) {
      throw new IllegalArgumentException("sum of " + x + " and " + branch);
    }
    Var out = tape.value(x.rows(), x.cols(), x.needsGradient() || branch.needsGradient());
    Var kept = tape.value(x.rows(), x.cols(), false);
    Var keptGradient = tape.value(x.rows(), x.cols(), false);
    long n = out.size();
    tape.op("addUnless")
        .reads(x, branch)
        .writes(out, kept)
        .forward(
            k -> {
              // branch - branch is 0 exactly, and x + 0 is x
              k.keepRows(branch.data(), keep, kept.data(), x.rows(), x.cols());
              k.copy(branch.data(), out.data(), n);
              k.axpy(-1, kept.data(), out.data(), n);
              k.axpy(1, x.data(), out.data(), n);
            })
        .backward(
            List.of(),
            List.of(x, branch),
            k -> {
              if (x.needsGradient()) {
                if (x.accumulates()) {
                  k.axpy(1, out.gradientData(), x.gradientData(), n);
                } else {
                  k.copy(out.gradientData(), x.gradientData(), n);
                }
              }
              if (branch.needsGradient()) {
                if (branch.accumulates()) {
                  throw new IllegalStateException("the branch of a sum is read by it only");
                }
                k.keepRows(out.gradientData(), keep, keptGradient.data(), x.rows(), x.cols());
                k.copy(out.gradientData(), branch.gradientData(), n);
                k.axpy(-1, keptGradient.data(), branch.gradientData(), n);
              }
            })
        .backwardScratch(keptGradient);
    return out;
  }

  /** The result of a residual sum; both inputs share its gradient. */
  private static Var sumOf(Tape tape, Var x, Var branch) {
    if (x.rows() != branch.rows() || x.cols() != branch.cols()) {
      throw new IllegalArgumentException("residual sum of " + x + " and " + branch);
    }
    Var sum = tape.value(x.rows(), x.cols(), x.needsGradient() || branch.needsGradient());
    for (Var input : List.of(x, branch)) {
      if (input.needsGradient()) {
        input.shareGradientWith(sum);
      }
    }
    return sum;
  }
}
