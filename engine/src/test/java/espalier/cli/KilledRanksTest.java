package espalier.cli;

import static espalier.cli.FaultyJobs.assertEnded;
import static espalier.cli.FaultyJobs.signal;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.distributed.MpiJob;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Jobs whose ranks are killed at random moments. */
@Tag("mpi")
class KilledRanksTest {

  @TempDir private Path temp;

  private FaultyJobs jobs;

  @BeforeEach
  void folders() {
    jobs = new FaultyJobs(temp);
  }

  /** Killed again and again at random moments, a run comes to where it would have come anyway. */
  @ParameterizedTest
  @CsvSource({
    "openmpi, adapt, adapter_model.safetensors",
    "mpich, adapt, adapter_model.safetensors",
    "openmpi, train-sae, sae_weights.safetensors",
    "mpich, train-sae, sae_weights.safetensors",
  })
  void killedRanksCostNothingButTime(String mpi, String command, String trained) throws Exception {
    int steps = 300;
    MpiJob whole =
        MpiJob.start(mpi, 2, Map.of(), Main.class, jobs.train(command, "whole", steps, false));
    assertEquals(0, whole.await().code());

    long seed = new Random().nextLong();
    System.out.println("seed of the kills: " + seed);
    Random random = new Random(seed);
    long reached = -1;
    for (int kill = 0; kill < 3 && reached < steps / 2; kill++) {
      MpiJob job =
          MpiJob.start(mpi, 2, Map.of(), Main.class, jobs.train(command, "run", steps, kill > 0));
      reached = jobs.knownBeyond("run", reached);
      Thread.sleep(random.nextInt(300));
      int victim = random.nextInt(2);
      ProcessHandle process = job.rank(victim);
      long since = System.nanoTime();
      signal("KILL", process);
      assertEnded(
          since, job.await(), "rank %d of 2 died".formatted(victim), "the last checkpoint is");
      reached = Math.max(reached, jobs.newest("run"));
    }
    MpiJob last =
        MpiJob.start(mpi, 2, Map.of(), Main.class, jobs.train(command, "run", steps, true));
    assertEquals(0, last.await().code());
    assertArrayEquals(
        Files.readAllBytes(temp.resolve("whole").resolve(trained)),
        Files.readAllBytes(temp.resolve("run").resolve(trained)));
    assertNothingHalfWritten(temp.resolve("run"));
  }

  private static void assertNothingHalfWritten(Path run) throws IOException {
    try (Stream<Path> files = Files.walk(run)) {
      assertEquals(List.of(), files.filter(file -> file.toString().endsWith(".tmp")).toList());
    }
  }
}
