package espalier.bindings;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.bindings.kernels.Kernels;
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
