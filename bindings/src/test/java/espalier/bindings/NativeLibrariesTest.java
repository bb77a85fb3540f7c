package espalier.bindings;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.bindings.cblas.Cblas;
import espalier.bindings.kernels.Kernels;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import org.junit.jupiter.api.Test;

class NativeLibrariesTest {

  @Test
  void kernelsLoadAndSayTheirVersion() {
    var kernels = assertInstanceOf(Availability.Available.class, NativeLibraries.kernels());
    assertTrue(Files.isRegularFile(kernels.path()));
    assertEquals("ABI version " + Kernels.ESP_ABI_VERSION(), kernels.description());
  }

  @Test
  void openBlasMultiplies() {
    var openBlas = assertInstanceOf(Availability.Available.class, NativeLibraries.openBlas());
    assertTrue(openBlas.description().startsWith("OpenBLAS"), openBlas.description());
    assertNotEquals(0, NativeLibraries.sgemmAddress().address());
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment a = arena.allocateFrom(ValueLayout.JAVA_FLOAT, 1, 2, 3, 4, 5, 6); // [2, 3]
      MemorySegment b = arena.allocateFrom(ValueLayout.JAVA_FLOAT, 1, 0, 0, 1, 1, 1); // [3, 2]
      MemorySegment c = arena.allocateFrom(ValueLayout.JAVA_FLOAT, 9, 9, 9, 9); // [2, 2]
      int plain = Cblas.CblasNoTrans();
      Cblas.cblas_sgemm(Cblas.CblasRowMajor(), plain, plain, 2, 2, 3, 1, a, 3, b, 2, 0, c, 2);
      assertArrayEquals(new float[] {4, 5, 10, 11}, c.toArray(ValueLayout.JAVA_FLOAT));
    }
  }

  @Test
  void refusalsSayWhatWhyAndWhere() {
    NativeLibraries.require();
    int status = Kernels.esp_set_threads(-1);
    NativeException e =
        assertThrows(NativeException.class, () -> NativeException.check("esp_set_threads", status));
    assertEquals("esp_set_threads", e.operation());
    assertEquals(Kernels.ESP_INVALID_ARGUMENT(), e.status());
    assertTrue(e.getMessage().matches("esp_set_threads: invalid argument: .*-1.*"), e.getMessage());
  }

  @Test
  void successIsNoException() {
    NativeException.check("esp_fill", Kernels.ESP_OK());
  }
}
