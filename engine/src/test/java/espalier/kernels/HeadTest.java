package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.bindings.NativeException;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class HeadTest extends KernelTest {

  private record Kl(float[] kl, float[] ceStudent, float[] ceTeacher, float[] dStudent) {}

  private Kl runKl(
      float[] student,
      float[] teacher,
      float[] head,
      float softcap,
      int[] targets,
      boolean gradient,
      float scale,
      int chunk,
      int d) {
    int tokens = student.length / d;
    int vocab = head.length / d;
    MemorySegment kl = buffers.floats(tokens);
    MemorySegment ceStudent = targets == null ? NULL : buffers.floats(tokens);
    MemorySegment ceTeacher = targets == null ? NULL : buffers.floats(tokens);
    MemorySegment dStudent = gradient ? buffers.floats(tokens * d) : NULL;
    kernels.headKl(
        buffers.input(student),
        buffers.input(teacher),
        buffers.input(head),
        softcap,
        targets == null ? NULL : buffers.input(targets),
        kl,
        ceStudent,
        ceTeacher,
        dStudent,
        scale,
        buffers.floats(2 * chunk * (vocab + Kernels.LOGITS_ROOM)),
        chunk,
        tokens,
        d,
        vocab);
    return new Kl(
        TestBuffers.toFloats(kl),
        targets == null ? null : TestBuffers.toFloats(ceStudent),
        targets == null ? null : TestBuffers.toFloats(ceTeacher),
        gradient ? TestBuffers.toFloats(dStudent) : null);
  }

  private record Ce(float[] ce, float[] dHidden, float[] dHead) {}

  private Ce runCe(
      float[] hidden,
      float[] head,
      float softcap,
      int[] targets,
      float scale,
      float[] headBefore,
      int chunk,
      int d) {
    int tokens = hidden.length / d;
    int vocab = head.length / d;
    MemorySegment ce = buffers.floats(tokens);
    MemorySegment dHidden = buffers.floats(tokens * d);
    MemorySegment dHead = buffers.changing(headBefore);
    kernels.headCe(
        buffers.input(hidden),
        buffers.input(head),
        softcap,
        buffers.input(targets),
        ce,
        dHidden,
        dHead,
        scale,
        buffers.floats(chunk * (vocab + Kernels.LOGITS_ROOM)),
        chunk,
        tokens,
        d,
        vocab);
    return new Ce(
        TestBuffers.toFloats(ce), TestBuffers.toFloats(dHidden), TestBuffers.toFloats(dHead));
  }

  private int[] targets(int tokens, int vocab) {
    int[] targets = randomInts(tokens, vocab);
    for (int t = 0; t < tokens; t += 5) targets[t] = -1;
    return targets;
  }

  /** Hidden states near others, as a student's are near the teacher's. */
  private float[] near(float[] x, double distance) {
    float[] out = random(x.length, distance);
    for (int i = 0; i < x.length; i++) out[i] += x[i] - 0.5f;
    return out;
  }

  @ParameterizedTest
  @CsvSource({
    "1, 1, 2, 1, 0",
    "7, 5, 33, 3, 0",
    "37, 48, 1003, 16, 0",
    "37, 48, 1003, 64, 3",
    "20, 31, 257, 20, 30",
    "0, 4, 5, 2, 0"
  })
  void kl(int tokens, int d, int vocab, int chunk, float softcap) {
    float[] student = random(tokens * d);
    float[] teacher = near(student, 0.1);
    float[] head = random(vocab * d, 0.3);
    int[] targets = targets(tokens, vocab);
    float scale = 0.7f;
    Kl result = runKl(student, teacher, head, softcap, targets, true, scale, chunk, d);

    HeadReference reference = new HeadReference(doubles(head), d, vocab, softcap);
    double[] s = doubles(student);
    double[] t = doubles(teacher);
    double[] kl = reference.kl(s, t);
    double[] klBound = new double[tokens];
    double[] gradient = new double[tokens * d];
    double[] gradientBound = new double[tokens * d];
    for (int row = 0; row < tokens; row++) {
      double[] q = HeadReference.logSoftmax(reference.logits(s, row));
      double[] p = HeadReference.logSoftmax(reference.logits(t, row));
      double[] pValues = Arrays.stream(p).map(Math::exp).toArray();
      double[] dz = reference.logitGradient(s, row, pValues);
      double zs = reference.logitError(s, row);
      double zt = reference.logitError(t, row);
      // d kl / d student logit = q - p, d kl / d teacher logit = p (log(p / q) - kl); beyond first
      // order, zs^2.
      double sensitivity = 0;
      for (int v = 0; v < vocab; v++) {
        sensitivity += zs * Math.abs(Math.exp(q[v]) - pValues[v]);
        sensitivity += zt * pValues[v] * Math.abs(p[v] - q[v] - kl[row]);
      }
      klBound[row] = sensitivity + (zs + zt) * (zs + zt) + 10 * EPS * kl[row];
      for (int v = 0; v < vocab; v++) {
        double sum = Math.exp(q[v]) + pValues[v];
        // q and p are each off by the error of their logit and of the log-sum-exp, the cap's slope
        // by its own.
        double capped = softcap > 0 ? 4 * zs / softcap * Math.abs(Math.exp(q[v]) - pValues[v]) : 0;
        double error = scale * ((2 * Math.max(zs, zt) + 8 * EPS) * sum + capped);
        for (int c = 0; c < d; c++) {
          double weight = head[v * d + c];
          gradient[row * d + c] += scale * dz[v] * weight;
          gradientBound[row * d + c] +=
              Math.abs(weight) * (error + EPS * Math.sqrt(vocab) * scale * Math.abs(dz[v]));
        }
      }
    }
    assertNear("kl", kl, result.kl, klBound);
    assertNear("d_student", gradient, result.dStudent, gradientBound);
    double[] ceStudent = reference.crossEntropy(s, targets);
    double[] ceTeacher = reference.crossEntropy(t, targets);
    assertNear(
        "ce_student",
        ceStudent,
        result.ceStudent,
        i -> targets[i] < 0 ? 0 : 2 * reference.logitError(s, i) + 2 * EPS * (1 + ceStudent[i]));
    assertNear(
        "ce_teacher",
        ceTeacher,
        result.ceTeacher,
        i -> targets[i] < 0 ? 0 : 2 * reference.logitError(t, i) + 2 * EPS * (1 + ceTeacher[i]));

    Kl measured = runKl(student, teacher, head, softcap, null, false, scale, chunk, d);
    assertSameBits(result.kl, measured.kl, "kl without gradient and targets");
  }

  @ParameterizedTest
  @CsvSource({
    "1, 1, 2, 1, 0",
    "7, 5, 33, 3, 0",
    "37, 48, 1003, 16, 0",
    "37, 48, 1003, 64, 3",
    "0, 4, 5, 2, 0"
  })
  void crossEntropy(int tokens, int d, int vocab, int chunk, float softcap) {
    float[] hidden = random(tokens * d);
    float[] head = random(vocab * d, 0.3);
    float[] before = random(vocab * d);
    int[] targets = targets(tokens, vocab);
    float scale = 0.3f;
    Ce result = runCe(hidden, head, softcap, targets, scale, before, chunk, d);

    HeadReference reference = new HeadReference(doubles(head), d, vocab, softcap);
    double[] h = doubles(hidden);
    double[] ce = reference.crossEntropy(h, targets);
    assertNear(
        "ce",
        ce,
        result.ce,
        i -> targets[i] < 0 ? 0 : 2 * reference.logitError(h, i) + 2 * EPS * (1 + ce[i]));
    double[] dHidden = new double[tokens * d];
    double[] dHiddenBound = new double[tokens * d];
    double[] dHead = doubles(before);
    double[] dHeadBound = new double[vocab * d];
    double sums = Math.ceil((double) tokens / chunk); // each adds to what there is, and rounds that
    for (int i = 0; i < vocab * d; i++) dHeadBound[i] = (1 + sums / 2) * EPS * Math.abs(before[i]);
    for (int row = 0; row < tokens; row++) {
      if (targets[row] < 0) continue;
      double[] onTarget = new double[vocab];
      onTarget[targets[row]] = 1;
      double[] dz = reference.logitGradient(h, row, onTarget);
      double[] q = HeadReference.logSoftmax(reference.logits(h, row));
      double zError = reference.logitError(h, row);
      for (int v = 0; v < vocab; v++) {
        double size = Math.exp(q[v]) + onTarget[v];
        double capped = softcap > 0 ? 4 * zError / softcap * size : 0;
        double error = scale * ((2 * zError + 8 * EPS) * size + capped);
        for (int c = 0; c < d; c++) {
          dHidden[row * d + c] += scale * dz[v] * head[v * d + c];
          dHiddenBound[row * d + c] +=
              Math.abs(head[v * d + c])
                  * (error + EPS * Math.sqrt(vocab) * scale * Math.abs(dz[v]));
          dHead[v * d + c] += scale * dz[v] * hidden[row * d + c];
          dHeadBound[v * d + c] +=
              Math.abs(hidden[row * d + c])
                  * (error + EPS * Math.sqrt(tokens) * scale * Math.abs(dz[v]));
        }
      }
    }
    assertNear("d_hidden", dHidden, result.dHidden, dHiddenBound);
    assertNear("d_head", dHead, result.dHead, dHeadBound);
  }

  @ParameterizedTest
  @CsvSource({"0", "2"})
  void theReferenceIsTheGradient(double softcap) {
    int d = 3;
    int vocab = 7;
    double[] head = doubles(random(vocab * d));
    double[] student = doubles(random(4 * d));
    double[] teacher = doubles(random(4 * d));
    int[] targets = {2, -1, 0, 6};
    HeadReference reference = new HeadReference(head, d, vocab, softcap);
    double[] kl = new double[4 * d];
    double[] ce = new double[4 * d];
    double[] dHead = new double[vocab * d];
    for (int row = 0; row < 4; row++) {
      double[] p =
          Arrays.stream(HeadReference.logSoftmax(reference.logits(teacher, row)))
              .map(Math::exp)
              .toArray();
      double[] onTarget = new double[vocab];
      if (targets[row] >= 0) onTarget[targets[row]] = 1;
      double[] dKl = reference.logitGradient(student, row, p);
      double[] dCe = reference.logitGradient(student, row, onTarget);
      for (int v = 0; v < vocab; v++) {
        for (int c = 0; c < d; c++) {
          kl[row * d + c] += dKl[v] * head[v * d + c];
          if (targets[row] < 0) continue;
          ce[row * d + c] += dCe[v] * head[v * d + c];
          dHead[v * d + c] += dCe[v] * student[row * d + c];
        }
      }
    }
    assertGradient(x -> Arrays.stream(reference.kl(x, teacher)).sum(), student, kl);
    assertGradient(x -> Arrays.stream(reference.crossEntropy(x, targets)).sum(), student, ce);
    assertGradient(
        x ->
            Arrays.stream(new HeadReference(x, d, vocab, softcap).crossEntropy(student, targets))
                .sum(),
        head,
        dHead);
  }

  @Test
  void chunksChangeNothingButRoundings() {
    int d = 24;
    float[] student = random(50 * d);
    float[] teacher = near(student, 0.5);
    float[] head = random(301 * d, 0.3);
    Kl whole = runKl(student, teacher, head, 0, targets(50, 301), true, 1, 50, d);
    double[] kl = doubles(whole.kl);
    double[] gradient = doubles(whole.dStudent);
    double scale = Arrays.stream(gradient).map(Math::abs).max().getAsDouble();
    for (int chunk : new int[] {1, 7, 16, 49, 51}) {
      Kl cut = runKl(student, teacher, head, 0, targets(50, 301), true, 1, chunk, d);
      // Logits of about 10 are off by about 1e-6, and kl of about 1 by as much.
      assertNear("kl", kl, cut.kl, i -> 1e-5 * (kl[i] + 0.01));
      assertNear("d_student", gradient, cut.dStudent, i -> 1e-5 * scale);
    }
  }

  @Test
  void equalInputsHaveNoDivergence() {
    int d = 40;
    float[] hidden = random(33 * d);
    Kl result = runKl(hidden, hidden.clone(), random(503 * d), 0, null, true, 1, 8, d);
    for (float value : result.kl) assertEquals(0, value);
    for (float value : result.dStudent) assertEquals(0, Math.abs(value));
  }

  /**
   * Second order in a small distance: the usual sum of p (log p - log q) has no digit of it left.
   */
  @Test
  void smallDivergencesKeepTheirDigits() {
    int d = 1;
    int vocab = 2001;
    float[] head = random(vocab, 1);
    float teacher = 1;
    for (float distance : new float[] {0x1p-6f, 0x1p-10f, 0x1p-14f}) {
      float[] student = {teacher + distance};
      Kl result = runKl(student, new float[] {teacher}, head, 0, null, false, 1, 1, d);
      HeadReference reference = new HeadReference(doubles(head), d, vocab, 0);
      double[] p = HeadReference.logSoftmax(reference.logits(new double[] {teacher}, 0));
      double[] q = HeadReference.logSoftmax(reference.logits(doubles(student), 0));
      double expected = 0;
      for (int v = 0; v < vocab; v++) {
        expected += Math.exp(p[v]) * (Math.expm1(q[v] - p[v]) - (q[v] - p[v]));
      }
      // The logits' own rounding, relatively EPS / distance, is all that may be lost.
      assertEquals(expected, result.kl[0], expected * (4 * EPS / distance + 20 * EPS));
    }
  }

  /** Teacher and student that exclude each other: p or q underflow, the divergence does not. */
  @Test
  void largeDivergencesAreRight() {
    float[] head = {200, -200, 0};
    Kl result = runKl(new float[] {1}, new float[] {-1}, head, 0, null, true, 1, 1, 1);
    assertEquals(400, result.kl[0], 400 * EPS);
    assertEquals(400, result.dStudent[0], 400 * EPS); // 1 * 200 - 1 * -200
  }

  @Test
  void divergenceIsNeverNegative() {
    int d = 16;
    float[] student = random(200 * d);
    for (double distance : new double[] {1e-7, 1e-5, 1e-3, 0.1, 3}) {
      Kl result = runKl(student, near(student, distance), random(97 * d), 0, null, false, 1, 64, d);
      for (float value : result.kl) assertTrue(value >= 0, "kl " + value);
    }
  }

  /**
   * The gradient over the vocabulary sums to 0: a head of equal rows turns it into the hidden
   * states' gradient.
   */
  @Test
  void gradientOverTheVocabularySumsToZero() {
    int vocab = 3001;
    float[] head = new float[2 * vocab];
    float[] spread = random(vocab, 2);
    for (int v = 0; v < vocab; v++) {
      head[2 * v] = 1;
      head[2 * v + 1] = spread[v];
    }
    float[] student = {0.5f, 1, -1, 2, 3, 0.25f};
    Kl result = runKl(student, near(student, 1), head, 0, null, true, 1, 3, 2);
    for (int t = 0; t < 3; t++) assertEquals(0, result.dStudent[2 * t], 20 * EPS);
    Ce ce = runCe(student, head, 0, new int[] {5, 6, 7}, 1, new float[2 * vocab], 3, 2);
    for (int t = 0; t < 3; t++) assertEquals(0, ce.dHidden[2 * t], 20 * EPS);
  }

  @Test
  void isTheSameForAnyThreads() {
    int d = 32;
    float[] student = random(64 * d);
    float[] teacher = near(student, 0.3);
    float[] head = random(1500 * d, 0.3);
    int[] targets = targets(64, 1500);
    assertSameForAnyThreads(
        () -> {
          Kl kl = runKl(student, teacher, head, 0, targets, true, 1, 48, d);
          Ce ce = runCe(student, head, 0, targets, 1, new float[1500 * d], 48, d);
          return concat(
              MemorySegment.ofArray(kl.kl),
              MemorySegment.ofArray(kl.ceStudent),
              MemorySegment.ofArray(kl.ceTeacher),
              MemorySegment.ofArray(kl.dStudent),
              MemorySegment.ofArray(ce.ce),
              MemorySegment.ofArray(ce.dHidden),
              MemorySegment.ofArray(ce.dHead));
        });
  }

  @Test
  void refusesATargetOutsideTheVocabulary() {
    onTheCpuOnly("the host cannot look at what is in a GPU's memory");
    NativeException e =
        assertThrows(
            NativeException.class,
            () -> runCe(random(4), random(10), 0, new int[] {0, 5}, 1, new float[10], 1, 2));
    assertTrue(e.getMessage().contains("targets[1] = 5"), e.getMessage());
  }

  /** A NaN must reach the loss. */
  @Test
  void notANumberStaysNotANumber() {
    float[] student = {1, Float.NaN};
    Kl result = runKl(student, new float[] {1, 1}, random(9), 0, null, true, 1, 2, 1);
    assertTrue(Float.isFinite(result.kl[0]));
    assertTrue(Float.isNaN(result.kl[1]));
  }
}
