package espalier.autograd;

import java.lang.foreign.MemorySegment;
import java.util.List;

/** |y - target|^2 of a stream of activations that other operations read, too. */
public final class SquaredError {

  private SquaredError() {}

  /**
   * Squared error of each token; the loss is their sum times {@code gradientScale}. It must be
   * recorded before the operations that read y: in the backward pass it then adds its gradient to
   * theirs.
   *
   * @param y {@code [tokens, d]}
   * @param target {@code [tokens, d]}, no gradient
   * @return {@code [1, tokens]}
   */
  public static Var of(Tape tape, Var y, Var target, float gradientScale) {
    if (target.needsGradient()) {
      throw new IllegalArgumentException("the target of a squared error has no gradient");
    }
    long tokens = y.rows();
    long d = y.cols();
    // Marked as needing a gradient, which is gradientScale: the backward pass is recorded then.
    Var loss = tape.value(1, tokens, y.needsGradient());
    MemorySegment none = MemorySegment.NULL;
    tape.op("squaredError")
        .reads(y, target)
        .writes(loss)
        .forward(k -> k.saeMse(target.data(), y.data(), none, loss.data(), none, 0, tokens, d))
        .backward(
            List.of(y, target),
            List.of(y),
            k ->
                k.saeMseBackward(
                    target.data(),
                    y.data(),
                    none,
                    none,
                    none,
                    1,
                    y.gradientData(),
                    y.accumulates(),
                    gradientScale,
                    tokens,
                    d));
    return tape.output(loss);
  }
}
