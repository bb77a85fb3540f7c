package espalier.autograd;

import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import java.util.List;

/** What {@link NormFusion} must know of an operation to compute it together with others. */
sealed interface Part {

  /**
   * sum = x + branch.
   *
   * @param sum the result, whose gradient x and branch share
   */
  record Residual(Var x, Var branch, Var sum) implements Part {}

  /** A norm of rows, {@code [tokens, d]} both. */
  sealed interface Norm extends Part {
    Var x();

    Var out();

    Parameter weight();

    /** What the forward pass leaves for the backward pass, {@code [tokens, 1]} each. */
    List<Var> statistics();

    /** The sum that x is, and its norm. */
    void forwardOfSum(Kernels kernels, Residual residual);

    /**
     * The gradients of x and of what is trained.
     *
     * @param dOut of out
     * @param dX of x, which is added to if {@code accumulate} says so
     */
    void backward(Kernels kernels, MemorySegment dOut, MemorySegment dX, boolean accumulate);
  }

  /**
   * See {@link Normalization#rmsNorm}.
   *
   * @param rstd {@code [tokens, 1]}
   */
  record Rms(Var x, Parameter weight, float offset, float eps, Var out, Var rstd) implements Norm {
    @Override
    public List<Var> statistics() {
      return List.of(rstd);
    }

    @Override
    public void forwardOfSum(Kernels k, Residual r) {
      k.addRmsNormForward(
          r.x().data(),
          r.branch().data(),
          weight.data(),
          offset,
          eps,
          r.sum().data(),
          out.value().data(),
          out.value().stride(),
          rstd.data(),
          x.rows(),
          x.cols());
    }

    @Override
    public void backward(Kernels k, MemorySegment dOut, MemorySegment dX, boolean accumulate) {
      k.rmsNormBackward(
          x.data(),
          weight.data(),
          offset,
          rstd.data(),
          dOut,
          dX,
          accumulate,
          weight.gradientData(),
          x.rows(),
          x.cols());
    }
  }

  /**
   * See {@link Normalization#layerNorm}.
   *
   * @param mean {@code [tokens, 1]}, as rstd
   */
  record Layer(Var x, Parameter weight, Parameter bias, float eps, Var out, Var mean, Var rstd)
      implements Norm {
    @Override
    public List<Var> statistics() {
      return List.of(mean, rstd);
    }

    @Override
    public void forwardOfSum(Kernels k, Residual r) {
      k.addLayerNormForward(
          r.x().data(),
          r.branch().data(),
          weight.data(),
          bias.data(),
          eps,
          r.sum().data(),
          out.value().data(),
          out.value().stride(),
          mean.data(),
          rstd.data(),
          x.rows(),
          x.cols());
    }

    @Override
    public void backward(Kernels k, MemorySegment dOut, MemorySegment dX, boolean accumulate) {
      k.layerNormBackward(
          x.data(),
          weight.data(),
          mean.data(),
          rstd.data(),
          dOut,
          dX,
          accumulate,
          weight.gradientData(),
          bias.gradientData(),
          x.rows(),
          x.cols());
    }
  }
}
