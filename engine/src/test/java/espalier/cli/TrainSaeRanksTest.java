package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Golden;
import espalier.distributed.MpiJob;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * {@code train-sae} under {@code mpirun}: N ranks are one rank with N times as many batches a step,
 * the state of the SAE included: which latents are dead, and the running threshold.
 */
@Tag("mpi")
class TrainSaeRanksTest {

  private static final int STEPS = 6;

  @TempDir private Path temp;

  /** Latents are dead after 40 tokens, a little more than a row: some are, in every run. */
  private String[] train(
      String name, String arch, String objective, int accumulate, String... more) {
    List<String> arguments = new ArrayList<>(List.of("train-sae"));
    arguments.addAll(List.of("--model", Golden.folder("llama").toString()));
    arguments.addAll(List.of("--data", Golden.folder("tokens.npy").toString()));
    arguments.addAll(List.of("--eval-data", Golden.folder("tokens.npy").toString()));
    arguments.addAll(List.of("--out", temp.resolve(name).toString()));
    arguments.addAll(List.of("--accumulate", String.valueOf(accumulate), "--batch", "1"));
    arguments.addAll(List.of("--objective", objective));
    if (objective.equals("kl-finetune")) {
      arguments.addAll(List.of("--init-sae", "1=" + Golden.folder("sae-" + arch)));
    } else {
      arguments.addAll(List.of("--arch", arch, "--layer", "1", "--latents", "96", "--k", "6"));
    }
    arguments.addAll(List.of("--dead-after", "40", "--aux-k", "5", "--l1", "0.02"));
    arguments.addAll(List.of("--sparsity-warmup", "3", "--warmup", "2", "--lr", "5e-3"));
    arguments.addAll(List.of("--steps", String.valueOf(STEPS), "--eval-every", "3"));
    arguments.addAll(List.of("--checkpoint-every", "3"));
    arguments.addAll(List.of(more));
    return arguments.toArray(String[]::new);
  }

  private Path alone(String name, String arch, String objective, int accumulate, String... more) {
    Outcome outcome = Outcome.of(train(name, arch, objective, accumulate, more));
    assertEquals(0, outcome.code(), outcome.err());
    return temp.resolve(name);
  }

  private Path ranks(
      String mpi,
      int ranks,
      String name,
      String arch,
      String objective,
      int accumulate,
      String... more)
      throws Exception {
    String[] command = train(name, arch, objective, accumulate, more);
    MpiJob.Outcome outcome = MpiJob.run(mpi, ranks, Main.class, command);
    assertEquals(0, outcome.code(), outcome.err());
    assertEquals("", outcome.out());
    return temp.resolve(name);
  }

  private static void assertSame(Path expected, Path given) throws IOException {
    RunResults.assertSame(expected, given, STEPS);
    assertArrayEquals(
        Files.readAllBytes(expected.resolve("sae_weights.safetensors")),
        Files.readAllBytes(given.resolve("sae_weights.safetensors")));
    assertTrue(Files.exists(given.resolve("report.html")));
  }

  @ParameterizedTest
  @CsvSource({
    "openmpi, 2, 1, topk, mse",
    "openmpi, 3, 2, batchtopk, mse",
    "mpich, 2, 2, matryoshka, mse",
    "openmpi, 2, 3, jumprelu, mse",
    "openmpi, 2, 1, standard, mse",
    "mpich, 3, 1, gated, mse",
    "openmpi, 2, 1, gated, e2e",
    "openmpi, 2, 2, batchtopk, e2e",
    "openmpi, 2, 1, topk, e2e+ds",
    "openmpi, 3, 1, jumprelu, kl-finetune",
  })
  void ranksGiveTheBitsOfOneRank(
      String mpi, int ranks, int accumulate, String arch, String objective) throws Exception {
    Path expected = alone("alone", arch, objective, ranks * accumulate);
    assertSame(expected, ranks(mpi, ranks, "ranks", arch, objective, accumulate));
    double dead =
        RunResults.metrics(expected).stream().mapToDouble(l -> l.path("dead").asDouble()).sum();
    boolean learnsFromDead = arch.equals("topk") && objective.equals("mse");
    assertTrue(dead > 0 || !learnsFromDead, "the test needs dead latents");
  }

  /** Whatever the number of ranks was when the checkpoint was written. */
  @Test
  void aRunGoesOnWithAnotherNumberOfRanks() throws Exception {
    Path whole = alone("whole", "batchtopk", "mse", 6);
    Path resumed = ranks("openmpi", 2, "resumed", "batchtopk", "mse", 3);
    Files.delete(resumed.resolve("checkpoints/step-000006.safetensors"));
    Files.delete(resumed.resolve("sae_weights.safetensors"));
    ranks("openmpi", 3, "resumed", "batchtopk", "mse", 2, "--resume");
    assertSame(whole, resumed);
  }

  /** In whatever order, it is the same sum but for rounding. */
  @Test
  void theFastestSumIsNearTheFixedOne() throws Exception {
    Path expected = alone("alone", "topk", "mse", 4);
    Path fastest = ranks("openmpi", 2, "fastest", "topk", "mse", 2, "--gradient-sum", "fastest");
    double norm = RunResults.metrics(expected).get(1).get("grad_norm").doubleValue();
    double other = RunResults.metrics(fastest).get(1).get("grad_norm").doubleValue();
    assertEquals(norm, other, 1e-5 * norm); // before any update
  }

  @Test
  void aCacheIsOfOneProcess() throws Exception {
    String cache = temp.resolve("cache").toString();
    MpiJob.Outcome outcome =
        MpiJob.run(
            "openmpi", 2, Main.class, train("out", "topk", "mse", 1, "--activation-cache", cache));
    assertEquals(2, outcome.code(), outcome.err());
    List<String> ours = outcome.err().lines().filter(l -> l.startsWith("espalier:")).toList();
    assertEquals(1, ours.size(), outcome.err());
    assertTrue(
        ours.getFirst().matches("espalier: rank [01] of 2: --activation-cache.*"), ours.getFirst());
    assertFalse(Files.exists(temp.resolve("out")));
  }
}
