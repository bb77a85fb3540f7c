package espalier.autograd;

import java.lang.foreign.MemorySegment;

/**
 * The head of a language model fused with its losses, over chunks of tokens: logits over the
 * vocabulary never exist whole, and the gradient of the hidden states is computed on the way.
 */
public final class LanguageModelHead {

  /**
   * Logits held at a time: 256 rows of two models with 49152 tokens. The head's weights are read
   * once a chunk, so that 80 rows took 1.4 times as long; 512 rows saved 6 % for twice the memory.
   */
  private static final long CHUNK_BYTES = 96L << 20;

  private LanguageModelHead() {}

  /**
   * What {@link #kl} leaves per token, each {@code [1, tokens]}.
   *
   * @param kl KL(teacher || student) in nats
   * @param ceStudent cross-entropy of the student in nats, 0 where there is no target; null without
   *     targets
   * @param ceTeacher the teacher's
   */
  public record Divergence(Var kl, Var ceStudent, Var ceTeacher) {}

  /**
   * KL(softmax(teacher head^T) || softmax(student head^T)) per token. The loss is its sum times
   * {@code gradientScale}.
   *
   * @param student {@code [tokens, d]}
   * @param teacher {@code [tokens, d]}, no gradient
   * @param head {@code [vocab, d]}, frozen
   * @param softcap of the logits; 0 for none
   * @param targets int32 {@code [tokens]} in device memory, negative for none; NULL: no
   *     cross-entropies
   */
  public static Divergence kl(
      Tape tape,
      Var student,
      Var teacher,
      Parameter head,
      float softcap,
      MemorySegment targets,
      float gradientScale) {
    if (head.isTrainable() || teacher.needsGradient()) {
      throw new IllegalArgumentException("the KL has no gradient for the head and the teacher");
    }
    long tokens = student.rows();
    long d = student.cols();
    long vocab = head.rows();
    long chunk = chunk(tokens, vocab, 2);
    boolean withTargets = !targets.equals(MemorySegment.NULL);
    Var kl = tape.value(1, tokens);
    Var ceStudent = withTargets ? tape.value(1, tokens) : null;
    Var ceTeacher = withTargets ? tape.value(1, tokens) : null;
    Var scratch = tape.value(2 * chunk, vocab);
    Op op = tape.op("headKl").reads(student, teacher).writes(kl, scratch).givesInForward(student);
    if (withTargets) {
      op.writes(ceStudent, ceTeacher);
    }
    op.forward(
        k ->
            k.headKl(
                student.data(),
                teacher.data(),
                head.matrix().data(),
                softcap,
                targets,
                kl.data(),
                withTargets ? ceStudent.data() : MemorySegment.NULL,
                withTargets ? ceTeacher.data() : MemorySegment.NULL,
                freshGradient(student),
                gradientScale,
                scratch.data(),
                chunk,
                tokens,
                d,
                vocab));
    tape.output(kl);
    if (withTargets) {
      tape.output(ceStudent);
      tape.output(ceTeacher);
    }
    return new Divergence(kl, ceStudent, ceTeacher);
  }

  /**
   * Cross-entropy per token in nats, {@code [1, tokens]}, 0 where there is no target. The loss is
   * its sum times {@code gradientScale}.
   *
   * @param hidden {@code [tokens, d]}
   * @param head {@code [vocab, d]}, frozen or trained
   */
  public static Var crossEntropy(
      Tape tape,
      Var hidden,
      Parameter head,
      float softcap,
      MemorySegment targets,
      float gradientScale) {
    long tokens = hidden.rows();
    long d = hidden.cols();
    long vocab = head.rows();
    long chunk = chunk(tokens, vocab, 1);
    Var ce = tape.value(1, tokens);
    Var scratch = tape.value(chunk, vocab);
    tape.op("headCe")
        .reads(hidden)
        .writes(ce, scratch)
        .givesInForward(hidden)
        .forward(
            k ->
                k.headCe(
                    hidden.data(),
                    head.matrix().data(),
                    softcap,
                    targets,
                    ce.data(),
                    freshGradient(hidden),
                    head.gradientData(),
                    gradientScale,
                    scratch.data(),
                    chunk,
                    tokens,
                    d,
                    vocab));
    return tape.output(ce);
  }

  private static MemorySegment freshGradient(Var hidden) {
    if (!hidden.needsGradient()) {
      return MemorySegment.NULL;
    }
    if (hidden.accumulates()) {
      throw new IllegalStateException("one loss reads the final hidden states");
    }
    return hidden.gradientData();
  }

  /** Rows of logits at a time, in whole blocks where there are many. */
  public static long chunk(long tokens, long vocab, int copies) {
    long rows = CHUNK_BYTES / (copies * vocab * Float.BYTES);
    return Math.min(tokens, Math.max(16, rows / 16 * 16));
  }
}
