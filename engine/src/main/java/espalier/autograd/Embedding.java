package espalier.autograd;

import java.lang.foreign.MemorySegment;
import java.util.List;

/** Token embedding. */
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
        .forward(k -> k.embeddingForward(ids, table.data(), scale, out.data(), tokens, vocab, d))
        .backward(
            List.of(),
            List.of(),
            k ->
                k.embeddingBackward(
                    ids, out.gradientData(), scale, table.gradientData(), tokens, vocab, d));
    return out;
  }
}
