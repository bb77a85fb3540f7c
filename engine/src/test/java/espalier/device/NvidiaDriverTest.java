package espalier.device;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class NvidiaDriverTest {

  @TempDir private Path temp;

  private void gpu(String address, String information) throws IOException {
    Path folder = Files.createDirectories(temp.resolve("gpus").resolve(address));
    Files.writeString(folder.resolve("information"), information);
  }

  @Test
  void noDriver() {
    assertEquals(
        "none found: no NVIDIA driver is loaded", NvidiaDriver.describe(temp.resolve("absent")));
  }

  @Test
  void driverWithoutGpus() throws IOException {
    Files.createDirectory(temp.resolve("gpus"));
    assertEquals("an NVIDIA driver is loaded, without a GPU", NvidiaDriver.describe(temp));
  }

  @Test
  void driverThatListsNothing() {
    assertEquals(
        "an NVIDIA driver is loaded, but does not list its GPUs", NvidiaDriver.describe(temp));
  }

  @Test
  void gpusByTheirNames() throws IOException {
    gpu("0000:01:00.0", "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 34\n");
    gpu("0000:02:00.0", "IRQ:   \t\t 35\n");
    assertEquals("NVIDIA H100 80GB HBM3, a GPU without a name", NvidiaDriver.describe(temp));
  }
}
