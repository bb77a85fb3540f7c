package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.device.ElementType;
import espalier.device.Kernels;
import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * The head's divergence over vocabularies of which Hopper's clusters take a row (head_cluster.cu):
 * slices for 2 to 16 blocks, with and without packs that stay in registers, of unequal lengths;
 * more rows than clusters, so that each takes several. Elsewhere the same by the kernel for any
 * vocabulary.
 */
class LargeVocabularyTest extends TypedKernelTest {

  private static final int DIM = 8;
  private static final float SCALE = 0.1f;
  private static final Layout BFLOAT16 = new Layout(ElementType.BF16, true);

  private record Losses(float[] kl, float[] ceStudent, float[] ceTeacher, MemorySegment gradient) {}

  private Losses run(
      Kernels kernels,
      float[] student,
      float[] teacher,
      float[] head,
      float softcap,
      int[] targets,
      boolean gradient,
      int chunk) {
    int tokens = student.length / DIM;
    int vocab = head.length / DIM;
    ElementType type = ElementType.BF16;
    MemorySegment kl = buffers.floats(tokens);
    MemorySegment ceStudent = targets == null ? NULL : buffers.floats(tokens);
    MemorySegment ceTeacher = targets == null ? NULL : buffers.floats(tokens);
    MemorySegment dStudent = gradient ? buffers.output(type, tokens * DIM) : NULL;
    kernels.headKl(
        buffers.input(type, student),
        buffers.input(type, teacher),
        buffers.input(type, head),
        softcap,
        targets == null ? NULL : buffers.input(targets),
        kl,
        ceStudent,
        ceTeacher,
        dStudent,
        SCALE,
        buffers.floats(2 * chunk * (vocab + Kernels.LOGITS_ROOM)),
        chunk,
        tokens,
        DIM,
        vocab);
    return new Losses(
        TestBuffers.toFloats(kl),
        targets == null ? null : TestBuffers.toFloats(ceStudent),
        targets == null ? null : TestBuffers.toFloats(ceTeacher),
        dStudent);
  }

  /** Targets in the first slice, in the last one, at both ends, none, and somewhere. */
  private int[] targets(int tokens, int vocab) {
    int[] targets = randomInts(tokens, vocab);
    int[] special = {-1, 0, vocab - 1, vocab / 2};
    System.arraycopy(special, 0, targets, 0, Math.min(tokens, special.length));
    return targets;
  }

  private static double[] hiddenGradient(
      Storage s, HeadReference reference, double[] student, double[] teacher) {
    double[] out = new double[student.length];
    for (int row = 0; row < out.length / DIM; row++) {
      double[] p = HeadReference.logSoftmax(reference.logits(teacher, row));
      for (int v = 0; v < p.length; v++) p[v] = Math.exp(p[v]);
      double[] dz = reference.logitGradient(student, row, p);
      for (int c = 0; c < DIM; c++) {
        double sum = 0;
        for (int v = 0; v < dz.length; v++) {
          sum += s.keep(SCALE * dz[v]) * reference.head()[v * DIM + c];
        }
        out[row * DIM + c] = s.keep(sum);
      }
    }
    return out;
  }

  @ParameterizedTest
  @CsvSource({
    "16400, 2, 2, 0", // the fewest that one block has no room for
    "20008, 5, 5, 5", // 2501 and 2500 packs of 4: slices of 2502
    "32000, 7, 5, 30", // 828 packs of the teacher in registers
    "32784, 3, 2, 0", // the most that two blocks have room for
    "50008, 4, 4, 5", // four blocks
    "100008, 3, 3, 0", // eight
    "150024, 5, 5, 30", // sixteen
    "262272, 1, 1, 5", // the most there is room for
    "262280, 1, 1, 5", // more
  })
  void divergence(int vocab, int tokens, int chunk, float softcap) {
    Kernels kernels = kernels(BFLOAT16);
    ElementType type = ElementType.BF16;
    float[] student = random(type, tokens * DIM, 0.5);
    float[] teacher = random(type, tokens * DIM, 0.5);
    float[] head = random(type, vocab * DIM, 0.3);
    int[] targets = targets(tokens, vocab);
    Losses losses = run(kernels, student, teacher, head, softcap, targets, true, chunk);

    HeadReference reference = new HeadReference(doubles(head), DIM, vocab, softcap);
    double[] s = doubles(student);
    double[] t = doubles(teacher);
    double[] kl = reference.kl(s, t);
    assertNear("kl", kl, losses.kl, i -> 1e-5 * (1 + kl[i])); // from float32 logits in every type
    double[] ceStudent = reference.crossEntropy(s, targets);
    double[] ceTeacher = reference.crossEntropy(t, targets);
    assertNear("ce_student", ceStudent, losses.ceStudent, i -> 1e-5 * (1 + ceStudent[i]));
    assertNear("ce_teacher", ceTeacher, losses.ceTeacher, i -> 1e-5 * (1 + ceTeacher[i]));
    assertActivations(
        "d_student",
        type,
        storage -> hiddenGradient(storage, reference, s, t),
        losses.gradient,
        GRADIENT);

    Losses measured = run(kernels, student, teacher, head, softcap, null, false, chunk);
    assertSameBits(losses.kl, measured.kl, "kl without gradient and targets");
    if (!kernelsAreCuda()) return; // it looks at the targets, and refuses: see HeadTest
    int[] outside = targets.clone();
    outside[0] = vocab;
    Losses refused = run(kernels, student, teacher, head, softcap, outside, false, chunk);
    assertTrue(Float.isNaN(refused.ceStudent[0]) && Float.isNaN(refused.ceTeacher[0]));
    assertSameBits(losses.kl, refused.kl, "kl with a target outside");
  }

  /**
   * Equal inputs diverge by exactly 0, saturated logits by something finite; a NaN is its row's.
   */
  @Test
  void atItsLimits() {
    Kernels kernels = kernels(BFLOAT16);
    ElementType type = ElementType.BF16;
    int tokens = 6;
    float[] head = random(type, 32000 * DIM, 0.3);
    float[] equal = random(type, tokens * DIM, 0.5);
    float[] broken = equal.clone();
    broken[3 * DIM] = Float.NaN;
    for (float softcap : new float[] {0, 5}) {
      Losses same = run(kernels, equal, equal, head, softcap, null, true, tokens);
      for (float value : same.kl) assertEquals(0, value);
      for (float value : TestBuffers.toFloats(type, same.gradient))
        assertEquals(0, Math.abs(value));
      float[] saturated = random(type, tokens * DIM, 3000);
      Losses far = run(kernels, saturated, equal, head, softcap, null, true, tokens);
      for (float value : far.kl) assertTrue(value > 0 && Float.isFinite(value), "kl " + value);
      for (float value : TestBuffers.toFloats(type, far.gradient)) {
        assertTrue(Float.isFinite(value), "gradient " + value);
      }
      Losses nan = run(kernels, broken, equal, head, softcap, null, true, tokens);
      for (int t = 0; t < tokens; t++) assertEquals(t == 3, Float.isNaN(nan.kl[t]), "row " + t);
    }
  }
}
