package espalier.sae;

import espalier.autograd.Tape;
import espalier.autograd.Var;

/** |x - y|^2 of an SAE, the part of its training loss that needs no language model. */
public final class ReconstructionLoss {

  private ReconstructionLoss() {}

  /**
   * Squared error of each token, 0 at kept positions; the loss is their sum times {@code
   * gradientScale}. The input gets no gradient from it.
   *
   * @return {@code [1, tokens]}
   */
  public static Var record(Tape tape, Splice splice, float gradientScale) {
    Var x = splice.input();
    Var y = splice.output();
    Var loss = tape.value(1, x.rows());
    tape.op("saeMse")
        .reads(x, y)
        .writes(loss)
        .givesInForward(y)
        .forward(
            k -> {
              if (y.accumulates()) {
                throw new IllegalStateException("the reconstruction loss comes first");
              }
              k.saeMse(
                  x.data(),
                  y.data(),
                  splice.keep(),
                  loss.data(),
                  y.gradientData(),
                  gradientScale,
                  x.rows(),
                  x.cols());
            });
    return tape.output(loss);
  }
}
