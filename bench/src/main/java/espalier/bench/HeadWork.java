package espalier.bench;

import espalier.device.Device;
import espalier.device.Kernels;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * KL(teacher || student) through the head of a language model, and the gradient of the student's
 * hidden states: by the kernel on chunks of tokens, by the same kernel with one chunk of all tokens
 * (so that all logits exist at once), and plainly, with products of the device and all else in Java
 * on whole matrices.
 */
final class HeadWork {

  private final Device device;
  private final Operands operands;
  private final float softcap;
  private final Tensor student; // [tokens, d]
  private final Tensor teacher; // [tokens, d]
  private final Tensor head; // [vocab, d]
  private final long chunk;
  private final Tensor chunkScratch;
  private Tensor wholeScratch;
  final Tensor kl; // [1, tokens]
  final Tensor dStudent; // [tokens, d], of the sum of kl

  /**
   * @param softcap of the logits; 0 for none
   * @param chunk tokens whose logits {@link #chunks} has at a time
   */
  HeadWork(Device device, long tokens, long d, long vocab, float softcap, long chunk) {
    this.device = device;
    this.softcap = softcap;
    operands = new Operands(device);
    student = operands.random(tokens, d, 1);
    teacher = operands.random(tokens, d, 1);
    head = operands.random(vocab, d, 1 / Math.sqrt(d));
    this.chunk = chunk;
    chunkScratch = scratch(chunk);
    kl = operands.floats(1, tokens);
    dStudent = operands.empty(tokens, d);
  }

  void chunks() {
    kernel(chunkScratch, chunk);
  }

  void whole() {
    requireWhole();
    kernel(wholeScratch, student.rows());
  }

  private void kernel(Tensor scratch, long rows) {
    device
        .kernels()
        .headKl(
            student.data(),
            teacher.data(),
            head.data(),
            softcap,
            MemorySegment.NULL,
            kl.data(),
            MemorySegment.NULL,
            MemorySegment.NULL,
            dStudent.data(),
            1,
            scratch.data(),
            rows,
            student.rows(),
            student.cols(),
            head.rows());
  }

  /** Needs memory that Java can read. */
  void plain() {
    operands.requireHost();
    requireWhole();
    long tokens = student.rows();
    Tensor whole = Tensor.of(wholeScratch.data(), 2 * tokens, head.rows());
    Tensor ofStudent = whole.rows(0, tokens);
    Tensor ofTeacher = whole.rows(tokens, tokens);
    operands.productTransposed(student, head, 1, 0, ofStudent);
    operands.productTransposed(teacher, head, 1, 0, ofTeacher);
    Operands.rows(
        tokens, t -> divergence(t, ofStudent.rows(t, 1).bytes(), ofTeacher.rows(t, 1).bytes()));
    operands.product(ofStudent, head, 1, 0, dStudent);
  }

  private void requireWhole() {
    if (wholeScratch == null) {
      wholeScratch = scratch(student.rows());
    }
  }

  /** For the logits of both models at a time. */
  private Tensor scratch(long tokens) {
    return operands.floats(2 * tokens, head.rows() + Kernels.LOGITS_ROOM);
  }

  /**
   * sum p_t (log p_t - log p_s) of a token; its logits' gradient (p_s - p_t), times the cap's slope
   * 1 - (z / cap)^2, takes the place of the student's logits.
   */
  private void divergence(int token, MemorySegment ofStudent, MemorySegment ofTeacher) {
    float[] s = ofStudent.toArray(ValueLayout.JAVA_FLOAT);
    float[] t = ofTeacher.toArray(ValueLayout.JAVA_FLOAT);
    cap(s);
    cap(t);
    float lseStudent = logSumExp(s);
    float lseTeacher = logSumExp(t);
    double sum = 0;
    for (int i = 0; i < s.length; i++) {
      float pStudent = (float) Math.exp(s[i] - lseStudent);
      float pTeacher = (float) Math.exp(t[i] - lseTeacher);
      sum += pTeacher * (double) (t[i] - lseTeacher - s[i] + lseStudent);
      float slope = softcap > 0 ? 1 - (s[i] / softcap) * (s[i] / softcap) : 1;
      s[i] = (pStudent - pTeacher) * slope;
    }
    kl.data().setAtIndex(ValueLayout.JAVA_FLOAT, token, (float) sum);
    ofStudent.copyFrom(MemorySegment.ofArray(s));
  }

  private void cap(float[] logits) {
    if (softcap > 0) {
      for (int i = 0; i < logits.length; i++) {
        logits[i] = softcap * (float) Math.tanh(logits[i] / softcap);
      }
    }
  }

  private static float logSumExp(float[] x) {
    float largest = Float.NEGATIVE_INFINITY;
    for (float value : x) {
      largest = Math.max(largest, value);
    }
    double sum = 0;
    for (float value : x) {
      sum += Math.exp(value - largest);
    }
    return (float) (largest + Math.log(sum));
  }
}
