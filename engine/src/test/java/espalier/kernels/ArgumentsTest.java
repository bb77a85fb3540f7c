package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.function.Executable;

/** What does not fit is refused in Java, before native code trusts it. */
class ArgumentsTest extends KernelTest {

  private static void assertRefused(String message, Executable call) {
    assertEquals(message, assertThrows(IllegalArgumentException.class, call).getMessage());
  }

  @Test
  void memoryThatIsTooShort() {
    MemorySegment six = buffers.floats(6);
    MemorySegment five = buffers.floats(5);
    assertRefused(
        "esp_gemm: a needs 24 bytes, given 20",
        () -> kernels.gemm(false, false, 2, 2, 3, 1, five, 3, six, 2, 0, six, 2));
    assertRefused(
        "esp_gemm: b needs 24 bytes, given 20",
        () -> kernels.gemm(false, true, 2, 2, 3, 1, six, 3, five, 3, 0, six, 2));
    assertRefused(
        "esp_gemm: c needs 24 bytes, given 20",
        () -> kernels.gemm(false, false, 2, 2, 3, 1, six, 3, six, 2, 0, five, 4));
    assertRefused(
        "esp_attention_forward: lse needs 24 bytes, given 20",
        () ->
            kernels.attentionForward(
                six, 2, six, six, 2, six, 2 * 1, five, 1, 3, 2, 2, 1, 1, 0, 0));
    assertRefused(
        "esp_head_kl: scratch needs 288 bytes, given 24",
        () -> kernels.headKl(six, six, six, 0, NULL, six, NULL, NULL, NULL, 1, six, 2, 1, 2, 2));
    assertRefused(
        "esp_adamw: control needs 48 bytes, given 24",
        () -> kernels.adamw(six, six, six, six, 6, 0, 0, 1, 0, 0, six));
  }

  @Test
  void rowsThatOverlap() {
    MemorySegment x = buffers.floats(100);
    assertRefused(
        "esp_gemm: rows of b need 5 elements, ld is 4",
        () -> kernels.gemm(false, false, 2, 5, 3, 1, x, 3, x, 4, 0, x, 5));
    assertRefused(
        "esp_rope: rows of x need 8 elements, ld is 7",
        () -> kernels.rope(x, 7, x, x, 1, 2, 2, 2, 4, 4));
  }

  @Test
  void sizesThatAreNone() {
    MemorySegment x = buffers.floats(8);
    assertRefused("esp_fill: n needs at least 0, given -1", () -> kernels.fill(x, 0, -1));
    assertRefused(
        "esp_rms_norm_forward: d needs at least 1, given 0",
        () -> kernels.rmsNormForward(x, x, 0, 0, x, 0, x, 1, 0));
    assertThrows(
        ArithmeticException.class,
        () -> kernels.normalizeRows(x, Long.MAX_VALUE / 2, 8),
        "a product that overflows");
  }

  @Test
  void memoryOfTheJavaHeap() {
    MemorySegment heap = MemorySegment.ofArray(new float[4]);
    assertRefused(
        "esp_fill: x must be native memory, given a Java array", () -> kernels.fill(heap, 0, 4));
  }

  @Test
  void halfOfAPair() {
    MemorySegment x = buffers.floats(64);
    MemorySegment ids = buffers.ints(4);
    assertRefused(
        "esp_head_kl: targets and ce_student must be given together or not at all",
        () -> kernels.headKl(x, x, x, 0, ids, x, NULL, NULL, NULL, 1, x, 1, 1, 2, 2));
    assertRefused(
        "esp_sae_decode: x needs 16 bytes, given 0",
        () -> kernels.saeDecode(ids, x, ids, 1, x, x, buffers.input(new byte[2]), NULL, x, 2, 2));
  }
}
