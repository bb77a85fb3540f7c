package espalier.sae;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/**
 * Steering: x becomes x + strength direction, at every position but the kept ones.
 *
 * @param direction {@code [1, d]} in device memory, of the device's type
 */
public record Push(Tensor direction, float strength) {

  /**
   * @param x {@code [tokens, d]}, no gradient
   * @param keep bytes {@code [tokens]} in device memory, 1 where x passes unchanged
   */
  public Var record(Tape tape, Var x, MemorySegment keep) {
    if (x.needsGradient()) {
      throw new IllegalArgumentException("steering is measured, not trained through");
    }
    long tokens = x.rows();
    long d = x.cols();
    Tensor one = Tensor.allocate(tape.device(), 1, 1);
    one.copyFrom(1);
    Var out = tape.value(tokens, d, false);
    Var ones = tape.value(tokens, 1, false);
    Var where = tape.value(tokens, 1, false); // 1 at kept positions; ones keeps the others
    tape.op("push")
        .reads(x)
        .writes(out, ones, where)
        .forward(
            k -> {
              k.fillRows(one.data(), ones.data(), tokens, 1);
              k.keepRows(ones.data(), keep, where.data(), tokens, 1);
              k.axpy(-1, where.data(), ones.data(), tokens);
              k.copy(x.data(), out.data(), tokens * d);
              k.gemm(
                  false,
                  false,
                  tokens,
                  d,
                  1,
                  strength,
                  ones.data(),
                  1,
                  direction.data(),
                  d,
                  1,
                  out.data(),
                  d);
            });
    return out;
  }
}
