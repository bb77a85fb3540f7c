package espalier.distributed;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.File;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;

/** The collectives through NCCL's stand-in on the emulator, started by MPI and as torchrun does. */
@Tag("mpi")
class NcclTest {

  @BeforeEach
  void onTheEmulator() {
    MpiJob.requireEmulator();
  }

  @Test
  void startedByMpi() throws Exception {
    MpiJob.Outcome outcome =
        MpiJob.start("openmpi", 2, MpiJob.EMULATOR, CollectivesProgram.class).await();
    assertEquals(0, outcome.code(), outcome.err());
    assertEquals("2 ranks are content", outcome.out().strip());
  }

  @Test
  void startedAsByTorchrun() throws Exception {
    int ranks = 3;
    String port;
    try (ServerSocket free = new ServerSocket(0)) {
      port = String.valueOf(free.getLocalPort() - 1); // ranks meet at the next one
    }
    List<Process> processes = new ArrayList<>();
    List<File> outputs = new ArrayList<>();
    for (int rank = 0; rank < ranks; rank++) {
      ProcessBuilder builder =
          new ProcessBuilder(
              Path.of(System.getProperty("java.home"), "bin", "java").toString(),
              "--enable-native-access=ALL-UNNAMED",
              "-cp",
              System.getProperty("surefire.test.class.path", System.getProperty("java.class.path")),
              CollectivesProgram.class.getName());
      builder.environment().putAll(MpiJob.EMULATOR);
      builder
          .environment()
          .putAll(
              Map.of(
                  "RANK", String.valueOf(rank),
                  "WORLD_SIZE", String.valueOf(ranks),
                  "LOCAL_RANK", String.valueOf(rank),
                  "LOCAL_WORLD_SIZE", String.valueOf(ranks),
                  "MASTER_ADDR", "127.0.0.1",
                  "MASTER_PORT", port));
      File output = File.createTempFile("torchrun", ".out");
      output.deleteOnExit();
      outputs.add(output);
      processes.add(
          builder.redirectOutput(output).redirectError(ProcessBuilder.Redirect.INHERIT).start());
    }
    for (Process process : processes) {
      assertTrue(process.waitFor(120, TimeUnit.SECONDS), "a rank has not ended");
      assertEquals(0, process.exitValue());
    }
    assertEquals("3 ranks are content", Files.readString(outputs.getFirst().toPath()).strip());
  }
}
