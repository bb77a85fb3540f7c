package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

import espalier.Golden;
import espalier.distributed.FailingProgram;
import espalier.distributed.MpiJob;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * A rank that is killed, stopped, hangs or throws ends the job within half a minute, with one line
 * that names it and the last checkpoint.
 */
@Tag("mpi")
class DeadRankTest {

  private static final double LIMIT_SECONDS = 30;

  @TempDir private Path temp;

  /** A run of a command that trains; of an SAE whose latents die and whose threshold runs. */
  private String[] train(String command, String name, int steps, boolean resume) {
    List<String> arguments = new ArrayList<>(List.of(command));
    arguments.addAll(List.of("--model", Golden.folder("llama").toString()));
    arguments.addAll(List.of("--data", Golden.folder("tokens.npy").toString()));
    arguments.addAll(List.of("--out", temp.resolve(name).toString()));
    arguments.addAll(
        switch (command) {
          case "adapt" ->
              List.of("--sae", "1=" + Golden.folder("sae-topk"), "--layers", "all", "--rank", "4");
          case "train-sae" ->
              List.of(
                  ("--layer 1 --arch batchtopk --latents 96 --k 6 --batch 1"
                          + " --dead-after 40 --aux-k 5")
                      .split(" "));
          default -> throw new IllegalArgumentException(command);
        });
    arguments.addAll(List.of("--checkpoint-every", "5", "--steps", String.valueOf(steps)));
    if (resume) {
      arguments.add("--resume");
    }
    return arguments.toArray(String[]::new);
  }

  /**
   * Waits until all ranks know of a checkpoint beyond a step: rank 0 tells of one before it writes
   * the next.
   */
  private long knownBeyond(String name, long step) throws Exception {
    return checkpointBeyond(name, checkpointBeyond(name, step));
  }

  /** Waits until the run has a checkpoint beyond a step. */
  private long checkpointBeyond(String name, long step) throws Exception {
    for (int i = 0; i < 1200; i++) {
      long newest = newest(temp.resolve(name).resolve("checkpoints"));
      if (newest > step) {
        return newest;
      }
      Thread.sleep(50);
    }
    return fail("no checkpoint beyond step " + step);
  }

  private static long newest(Path checkpoints) throws IOException {
    if (!Files.isDirectory(checkpoints)) {
      return -1;
    }
    try (Stream<Path> files = Files.list(checkpoints)) {
      return files
          .map(file -> file.getFileName().toString())
          .filter(file -> file.matches("step-\\d+\\.safetensors"))
          .mapToLong(file -> Long.parseLong(file.replaceAll("\\D", "")))
          .max()
          .orElse(-1);
    }
  }

  private static void signal(String signal, ProcessHandle process) throws Exception {
    assertEquals(0, new ProcessBuilder("kill", "-" + signal, "" + process.pid()).start().waitFor());
  }

  /** The line that the job has ended with. */
  private static String only(MpiJob.Outcome outcome) {
    List<String> ours = outcome.err().lines().filter(l -> l.startsWith("espalier:")).toList();
    assertEquals(1, ours.size(), outcome.err());
    assertNotEquals(0, outcome.code());
    return ours.getFirst();
  }

  private static void assertEnded(long since, MpiJob.Outcome outcome, String... named) {
    double seconds = (System.nanoTime() - since) * 1e-9;
    String line = only(outcome);
    for (String part : named) {
      assertTrue(line.contains(part), line);
    }
    assertTrue(seconds < LIMIT_SECONDS, "took " + seconds + " s");
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
        MpiJob.start(mpi, 2, Map.of(), Main.class, train(command, "whole", steps, false));
    assertEquals(0, whole.await().code());

    long seed = new Random().nextLong();
    System.out.println("seed of the kills: " + seed);
    Random random = new Random(seed);
    long reached = -1;
    for (int kill = 0; kill < 3 && reached < steps / 2; kill++) {
      MpiJob job =
          MpiJob.start(mpi, 2, Map.of(), Main.class, train(command, "run", steps, kill > 0));
      reached = knownBeyond("run", reached);
      Thread.sleep(random.nextInt(300));
      int victim = random.nextInt(2);
      ProcessHandle process = job.rank(victim);
      long since = System.nanoTime();
      signal("KILL", process);
      assertEnded(
          since, job.await(), "rank %d of 2 died".formatted(victim), "the last checkpoint is");
      reached = Math.max(reached, newest(temp.resolve("run/checkpoints")));
    }
    MpiJob last = MpiJob.start(mpi, 2, Map.of(), Main.class, train(command, "run", steps, true));
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

  /** One of two ranks, to be stopped. */
  private record Victim(String mpi, int rank) {
    String run() {
      return mpi + rank;
    }
  }

  private record Stopped(Victim victim, MpiJob job, ProcessHandle process, long since) {}

  /** Jobs beside each other, so that they are waited for together. */
  @Test
  void aStoppedRankIsMissed() throws Exception {
    List<Victim> victims =
        List.of(new Victim("openmpi", 1), new Victim("openmpi", 0), new Victim("mpich", 1));
    Map<Victim, MpiJob> jobs = new LinkedHashMap<>();
    for (Victim victim : victims) {
      String[] command = train("adapt", victim.run(), 100_000, false);
      jobs.put(victim, MpiJob.start(victim.mpi, 2, Map.of(), Main.class, command));
    }
    List<Stopped> stopped = new ArrayList<>();
    try {
      for (Victim victim : victims) {
        knownBeyond(victim.run(), -1);
        ProcessHandle process = jobs.get(victim).rank(victim.rank);
        stopped.add(new Stopped(victim, jobs.get(victim), process, System.nanoTime()));
        signal("STOP", process);
      }
      for (Stopped rank : stopped) {
        MpiJob.Outcome outcome = rank.job.await();
        String missed = "rank %d of 2 has not been heard of".formatted(rank.victim.rank);
        assertEnded(rank.since, outcome, missed, "the last checkpoint is");
      }
    } finally {
      stopped.forEach(rank -> rank.process.destroyForcibly());
    }
  }

  /** As Slurm suspends one to let another job run: longer than silence and work are borne. */
  @Test
  void aSuspendedJobGoesOn() throws Exception {
    MpiJob job =
        MpiJob.start("openmpi", 2, Map.of(), Main.class, train("adapt", "run", 100_000, false));
    long reached = checkpointBeyond("run", -1);
    List<ProcessHandle> ranks = List.of(job.rank(0), job.rank(1));
    for (ProcessHandle rank : ranks) {
      signal("STOP", rank);
    }
    Thread.sleep(22_000);
    for (ProcessHandle rank : ranks) {
      signal("CONT", rank);
    }
    Thread.sleep(2_000); // who has been missed by now has ended the job
    checkpointBeyond("run", newest(temp.resolve("run/checkpoints")));
    assertTrue(reached > 0 && job.isAlive(), job.error());
    signal("KILL", ranks.get(1));
    assertTrue(only(job.await()).contains("rank 1 of 2 died"));
  }

  @ParameterizedTest
  @CsvSource({"openmpi,0", "openmpi,2", "mpich,1"})
  void aRankThatThrowsIsNamed(String mpi, int victim) throws Exception {
    long since = System.nanoTime();
    MpiJob.Outcome outcome =
        MpiJob.run(mpi, 3, FailingProgram.class, "throw", String.valueOf(victim));
    assertEnded(since, outcome, "rank %d of 3: its own fault".formatted(victim), "the checkpoint");
    assertEquals(7, outcome.code());
  }

  /** As where what they were asked for cannot be done: each finds out by itself. */
  @ParameterizedTest
  @CsvSource({"openmpi", "mpich"})
  void ofRanksThatAllThrowOneIsNamed(String mpi) throws Exception {
    for (int i = 0; i < 6; i++) {
      long since = System.nanoTime();
      MpiJob.Outcome outcome =
          MpiJob.run(mpi, 3, FailingProgram.class, "throw", "all", "" + i * 40);
      assertEnded(since, outcome, "of 3: its own fault", "the checkpoint");
      assertEquals(7, outcome.code());
    }
  }

  @Test
  void aRankWhoseWorkHangsIsNamed() throws Exception {
    MpiJob job = MpiJob.start("openmpi", 2, Map.of(), FailingProgram.class, "hang", "1");
    long since = System.nanoTime();
    assertEnded(since, job.await(), "rank 1 of 2: hangs", "the checkpoint");
  }
}
