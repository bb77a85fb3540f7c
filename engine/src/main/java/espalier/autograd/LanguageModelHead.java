package espalier.autograd;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;

/**
 * The head of a language model fused with its losses, over chunks of tokens: logits over the
 * vocabulary never exist whole, and the gradient of the hidden states is computed on the way.
 */
public final class LanguageModelHead {

  /**
   * Bytes of logits held at a time on a CPU: 256 rows of two models with a vocabulary of 49152. The
   * head's weights are read once for each chunk: with 80 rows everything took 1.4 times as long,
   * and 512 rows saved only 6 % for twice the memory.
   */
  private static final long HOST_BYTES = 96L << 20;

  /**
   * Bytes of logits held at a time on a GPU. There a product of r rows does r FLOPs for each byte
   * of the head's bfloat16 weights, and writes float32 logits. An H200 does 780 TFLOP in the time
   * in which it moves 3.9 TB. So for Gemma-2-2B (width 2304, vocabulary 256000) 256 rows take 0.37
   * ms to move the bytes and 0.39 ms to compute; 512 rows take 0.44 and 0.77 ms: from there on
   * computing decides. (Measured with 48 rows: 19.3 ms for the three products of 1024 tokens, whose
   * FLOPs take 4.6 ms.)
   *
   * <p>The third product, [r, vocab] by [vocab, d], has r / 128 * d / 256 tiles for 132
   * multiprocessors: cuBLAS must cut the sum over the vocabulary to fill them. 512 rows are 36
   * tiles, cut in 3; the partial sums are 14 MB of its workspace's 32. (A product of 1024 rows with
   * sums of 18432, 72 tiles, ran at 675 TFLOP/s, measured.)
   *
   * <p>The logits of both models take 0.52 GB for 256 rows, 1.05 GB for 512 and 2.1 GB for 1024.
   * The last would gain only 2 %, by filling the multiprocessors better at the end. So the bound is
   * chosen such that it gives 512.
   */
  private static final long GPU_BYTES = 1L << 30;

  /** The most rows, for small vocabularies: more would save nothing. */
  private static final long GPU_ROWS_BF16 = 1024;

  /**
   * The most rows in float32: products are at most a tenth as fast, so they soon take longer than
   * reading the weights.
   */
  private static final long GPU_ROWS_F32 = 256;

  /** Rows of a tile of cuBLAS: a chunk is whole tiles. */
  private static final long GPU_TILE = 128;

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
    long chunk = chunk(tape.device(), tokens, vocab, 2);
    boolean withTargets = !targets.equals(MemorySegment.NULL);
    Var kl = tape.value(1, tokens);
    Var ceStudent = withTargets ? tape.value(1, tokens) : null;
    Var ceTeacher = withTargets ? tape.value(1, tokens) : null;
    Var scratch = tape.value(2 * chunk, vocab + Kernels.LOGITS_ROOM);
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
    long chunk = chunk(tape.device(), tokens, vocab, 1);
    Var ce = tape.value(1, tokens);
    Var scratch = tape.value(chunk, vocab + Kernels.LOGITS_ROOM);
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

  /**
   * Rows of logits at a time: at most {@code tokens}.
   *
   * @param copies matrices of logits that are held: 2 for a student and a teacher
   */
  public static long chunk(Device device, long tokens, long vocab, int copies) {
    return device.isHost()
        ? hostChunk(tokens, vocab, copies)
        : gpuChunk(device.type(), tokens, vocab, copies);
  }

  /** In whole blocks where there are many. */
  private static long hostChunk(long tokens, long vocab, int copies) {
    long rows = HOST_BYTES / (copies * vocab * Float.BYTES);
    return Math.min(tokens, Math.max(16, rows / 16 * 16));
  }

  /** As few chunks as the bounds allow, and those of one length. */
  static long gpuChunk(ElementType type, long tokens, long vocab, int copies) {
    long fitting = GPU_BYTES / (copies * vocab * Float.BYTES) / GPU_TILE * GPU_TILE;
    long useful = type == ElementType.BF16 ? GPU_ROWS_BF16 : GPU_ROWS_F32;
    long rows = Math.clamp(fitting, GPU_TILE, useful);
    long chunks = Math.max(1, Math.ceilDiv(tokens, rows));
    return Math.min(tokens, Math.ceilDiv(Math.ceilDiv(tokens, chunks), GPU_TILE) * GPU_TILE);
  }
}
