package espalier.cli;

import static espalier.cli.FaultyJobs.assertEnded;
import static espalier.cli.FaultyJobs.only;
import static espalier.cli.FaultyJobs.signal;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.distributed.FailingProgram;
import espalier.distributed.MpiJob;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * A rank that is stopped, hangs or throws ends the job within half a minute, with one line that
 * names it and the last checkpoint.
 */
@Tag("mpi")
class DeadRankTest {

  @TempDir private Path temp;

  private FaultyJobs faulty;

  @BeforeEach
  void folders() {
    faulty = new FaultyJobs(temp);
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
    List<Stopped> stopped = new ArrayList<>();
    try {
      for (Victim victim : victims) {
        String[] command = faulty.train("adapt", victim.run(), 100_000, false);
        jobs.put(victim, MpiJob.start(victim.mpi, 2, Map.of(), Main.class, command));
      }
      for (Victim victim : victims) {
        faulty.knownBeyond(victim.run(), -1);
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
      stopped.forEach(rank -> rank.process.destroyForcibly()); // outlives its mpirun
      jobs.values().forEach(MpiJob::close);
    }
  }

  /** As Slurm suspends one to let another job run: longer than silence and work are borne. */
  @Test
  void aSuspendedJobGoesOn() throws Exception {
    String[] command = faulty.train("adapt", "run", 100_000, false);
    try (MpiJob job = MpiJob.start("openmpi", 2, Map.of(), Main.class, command)) {
      long reached = faulty.checkpointBeyond("run", -1);
      List<ProcessHandle> ranks = List.of(job.rank(0), job.rank(1));
      for (ProcessHandle rank : ranks) {
        signal("STOP", rank);
      }
      Thread.sleep(22_000);
      for (ProcessHandle rank : ranks) {
        signal("CONT", rank);
      }
      Thread.sleep(2_000); // who has been missed by now has ended the job
      faulty.checkpointBeyond("run", faulty.newest("run"));
      assertTrue(reached > 0 && job.isAlive(), job.error());
      signal("KILL", ranks.get(1));
      assertTrue(only(job.await()).contains("rank 1 of 2 died"));
    }
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
    while (!job.error().contains(FailingProgram.HANGS) && job.isAlive()) {
      Thread.sleep(50);
    }
    long since = System.nanoTime();
    assertEnded(since, job.await(), "rank 1 of 2: hangs", "the checkpoint");
  }
}
