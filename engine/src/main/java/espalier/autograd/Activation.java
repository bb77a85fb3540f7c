package espalier.autograd;

import java.util.List;

/** An activation function, element by element: the middle of an MLP without a gate. */
public final class Activation {

  /** The values are those of esp_activation. */
  public enum Kind {
    SILU,
    GELU_TANH,
    GELU_ERF,
    RELU
  }

  private Activation() {}

  /** act(x), shaped as x. */
  public static Var apply(Tape tape, Var x, Kind kind) {
    long n = x.size();
    Var out = tape.value(x.rows(), x.cols(), x.needsGradient());
    tape.op("activation")
        .reads(x)
        .writes(out)
        .forward(k -> k.activationForward(x.data(), kind.ordinal(), out.data(), n))
        .backward(
            List.of(x),
            List.of(x),
            k -> {
              if (x.accumulates()) {
                throw new IllegalStateException("the activation's input is read by it only");
              }
              k.activationBackward(
                  x.data(), kind.ordinal(), out.gradientData(), x.gradientData(), n);
            });
    return out;
  }
}
