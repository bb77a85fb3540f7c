package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Golden;
import espalier.distributed.MpiJob;
import espalier.format.Npy;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** {@code adapt} under {@code mpirun}: N ranks are one rank with N times as many batches a step. */
@Tag("mpi")
class AdaptRanksTest {

  private static final int STEPS = 6;

  @TempDir private Path temp;

  private String[] adapt(String name, int accumulate, String... more) {
    List<String> arguments =
        new ArrayList<>(
            List.of(
                "adapt",
                "--model",
                Golden.folder("llama").toString(),
                "--sae",
                "1=" + Golden.folder("sae-topk"),
                "--data",
                Golden.folder("tokens.npy").toString(),
                "--eval-data",
                Golden.folder("tokens.npy").toString(),
                "--out",
                temp.resolve(name).toString(),
                "--accumulate",
                String.valueOf(accumulate)));
    arguments.addAll(
        List.of("--layers", "all", "--rank", "4", "--lr", "1e-2", "--checkpoint-every", "3"));
    arguments.addAll(List.of("--steps", String.valueOf(STEPS), "--eval-every", "3"));
    arguments.addAll(List.of(more));
    return arguments.toArray(String[]::new);
  }

  /** The run of a process of its own. */
  private Path alone(String name, int accumulate, String... more) {
    Outcome outcome = Outcome.of(adapt(name, accumulate, more));
    assertEquals(0, outcome.code(), outcome.err());
    return temp.resolve(name);
  }

  private Path ranks(String mpi, int ranks, String name, int accumulate, String... more)
      throws Exception {
    MpiJob.Outcome outcome = MpiJob.run(mpi, ranks, Main.class, adapt(name, accumulate, more));
    assertEquals(0, outcome.code(), outcome.err());
    assertEquals("", outcome.out());
    return temp.resolve(name);
  }

  private static void assertSame(Path expected, Path given) throws IOException {
    RunResults.assertSame(expected, given, STEPS);
    assertArrayEquals(
        Files.readAllBytes(expected.resolve("adapter_model.safetensors")),
        Files.readAllBytes(given.resolve("adapter_model.safetensors")));
    assertTrue(Files.exists(given.resolve("report.html")));
  }

  @ParameterizedTest
  @CsvSource({"openmpi,2,1", "openmpi,3,1", "openmpi,2,3", "openmpi,3,2", "mpich,2,1", "mpich,3,1"})
  void ranksGiveTheBitsOfOneRank(String mpi, int ranks, int accumulate) throws Exception {
    Path expected = alone("alone", ranks * accumulate);
    assertSame(expected, ranks(mpi, ranks, "ranks", accumulate));
  }

  @Test
  void aRunGoesOnWithAnotherNumberOfRanks() throws Exception {
    Path whole = ranks("openmpi", 2, "whole", 3);
    Path resumed = alone("resumed", 6);
    Files.delete(resumed.resolve("checkpoints/step-000006.safetensors"));
    Files.delete(resumed.resolve("adapter_model.safetensors"));
    ranks("openmpi", 3, "resumed", 2, "--resume");
    assertSame(whole, resumed);
    Files.delete(resumed.resolve("checkpoints/step-000006.safetensors"));
    assertSame(whole, alone("resumed", 6, "--resume"));
  }

  /** One rank is told, all stop in the middle of an evaluation, which the resumed run makes up. */
  @ParameterizedTest
  @CsvSource({"openmpi, 1", "mpich, 0"})
  void anEvaluationThatIsCutShortCostsNothing(String mpi, int told) throws Exception {
    int rows = 4000;
    Path held = temp.resolve("held-out.npy");
    try (Arena arena = Arena.ofConfined()) {
      Npy.write(held, rows, 24, arena.allocate(rows * 24 * Integer.BYTES).fill((byte) 0));
    }
    String[] command = adapt("run", 1);
    command[8] = held.toString();
    MpiJob job = MpiJob.start(mpi, 2, Map.of(), Main.class, command);
    Path run = temp.resolve("run");
    while (job.isAlive() && !reached(run, 3)) {
      Thread.sleep(5);
    }
    assertEquals(
        0, new ProcessBuilder("kill", "-TERM", "" + job.rank(told).pid()).start().waitFor());
    MpiJob.Outcome stopped = job.await();
    assertTrue(stopped.err().contains("interrupted after step 3"), stopped.err());
    assertTrue(Files.exists(run.resolve("report.html")));
    assertEquals(4, RunResults.metrics(run).size(), "an evaluation, and three steps");

    command = adapt("run", 1, "--resume");
    command[8] = held.toString();
    assertEquals(0, MpiJob.run(mpi, 2, Main.class, command).code());
    command = adapt("whole", 2);
    command[8] = held.toString();
    assertEquals(0, Outcome.of(command).code());
    assertSame(temp.resolve("whole"), run);
  }

  private static boolean reached(Path run, int step) throws IOException {
    Path metrics = run.resolve("metrics.jsonl");
    return Files.exists(metrics)
        && Files.readString(metrics).contains("{\"step\":" + step + ",\"tokens\"");
  }

  @Test
  void otherBatchesAreNotTheSameRun() throws Exception {
    alone("run", 2);
    MpiJob.Outcome outcome = MpiJob.run("openmpi", 2, Main.class, adapt("run", 2, "--resume"));
    assertRefused(outcome, "other settings");
  }

  /** In whatever order, it is the same sum but for rounding. */
  @Test
  void theFastestSumIsNearTheFixedOne() throws Exception {
    Path expected = alone("alone", 4);
    Path fastest = ranks("openmpi", 2, "fastest", 2, "--gradient-sum", "fastest");
    double kl = RunResults.metrics(expected).get(1).get("kl").doubleValue();
    assertEquals(
        kl, RunResults.metrics(fastest).get(1).get("kl").doubleValue(), 0); // before any update
    for (int i = 0; i < RunResults.metrics(expected).size(); i++) {
      if (RunResults.metrics(expected).get(i).has("grad_norm")) {
        double norm = RunResults.metrics(expected).get(i).get("grad_norm").doubleValue();
        double other = RunResults.metrics(fastest).get(i).get("grad_norm").doubleValue();
        assertEquals(norm, other, 1e-3 * norm);
      }
    }
  }

  @Test
  void unusableInputIsOneLineAndNothingIsWritten() throws Exception {
    String[] wrong = adapt("out", 1);
    wrong[6] = temp.resolve("absent.npy").toString();
    assertRefused(MpiJob.run("openmpi", 2, Main.class, wrong), "absent.npy");
    wrong[6] = "--nonsense";
    assertRefused(MpiJob.run("openmpi", 2, Main.class, wrong), "--nonsense");
    assertFalse(Files.exists(temp.resolve("out")));
  }

  @Test
  void commandsForOneProcessSaySo() throws Exception {
    MpiJob.Outcome outcome = MpiJob.run("openmpi", 2, Main.class, "report", temp.toString());
    assertRefused(outcome, "espalier report runs as one process; Open MPI started 2");
  }

  private static void assertRefused(MpiJob.Outcome outcome, String named) {
    assertEquals(2, outcome.code(), outcome.err());
    assertEquals("", outcome.out());
    List<String> ours = outcome.err().lines().filter(l -> l.startsWith("espalier:")).toList();
    assertEquals(1, ours.size(), outcome.err());
    assertTrue(ours.getFirst().contains(named), ours.getFirst());
  }
}
