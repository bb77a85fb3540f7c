package espalier.autograd;

/** What {@link NormFusion} must know of an operation to compute it together with others. */
sealed interface Part {

  /**
   * sum = x + branch.
   *
   * @param sum of which both share the gradient
   */
  record Residual(Var x, Var branch, Var sum) implements Part {}

  /** A norm of rows, {@code [tokens, d]} both. */
  sealed interface Norm extends Part {
    Var x();

    Var out();

    Parameter weight();
  }

  /**
   * See {@link Normalization#rmsNorm}.
   *
   * @param rstd {@code [tokens, 1]}
   */
  record Rms(Var x, Parameter weight, float offset, float eps, Var out, Var rstd) implements Norm {}

  /**
   * See {@link Normalization#layerNorm}.
   *
   * @param mean {@code [tokens, 1]}, as rstd
   */
  record Layer(Var x, Parameter weight, Parameter bias, float eps, Var out, Var mean, Var rstd)
      implements Norm {}
}
