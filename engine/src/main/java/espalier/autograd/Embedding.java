package espalier.autograd;

import java.lang.foreign.MemorySegment;
import java.util.List;

/** Token embedding and learned positions. */
public final class Embedding {

  private Embedding() {}

  /**
   * out[t] = scale * table[ids[t]].
   *
   * @param ids int32 {@code [tokens]} in device memory, each below the table's rows
   * @param table {@code [vocab, d]}
   */
  public static Var lookup(
      Tape tape, MemorySegment ids, long tokens, Parameter table, float scale) {
    long vocab = table.rows();
    long d = table.cols();
    Var out = tape.value(tokens, d, table.isTrainable());
    tape.op("embedding")
        .writes(out)
        .forward(
            k ->
                k.embeddingForward(ids, table.matrix().data(), scale, out.data(), tokens, vocab, d))
        .backward(
            List.of(),
            List.of(),
            k ->
                k.embeddingBackward(
                    ids, out.gradientData(), scale, table.gradientData(), tokens, vocab, d));
    return out;
  }

  /**
   * out[t] = x[t] + table[t % seqLen].
   *
   * @param x {@code [batch * seqLen, d]}
   * @param table {@code [positions, d]}, at least seqLen of them
   */
  public static Var addPositions(Tape tape, Var x, Parameter table, long seqLen) {
    if (table.cols() != x.cols() || table.rows() < seqLen) {
      throw new IllegalArgumentException(
          "positions [" + table.rows() + ", " + table.cols() + "] for " + x);
    }
    long tokens = x.rows();
    long d = x.cols();
    Var out = tape.value(tokens, d, x.needsGradient() || table.isTrainable());
    if (x.needsGradient()) {
      x.shareGradientWith(out);
    }
    tape.op("positions")
        .reads(x)
        .writes(out)
        .forward(
            k -> k.addPositions(x.data(), table.matrix().data(), out.data(), tokens, seqLen, d))
        .backward(
            List.of(),
            List.of(x),
            k -> {
              if (table.isTrainable()) {
                k.addPositionsBackward(out.gradientData(), table.gradientData(), tokens, seqLen, d);
              }
              x.accumulates(); // it holds the result's gradient from here on
            });
    return out;
  }
}
