package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Golden;
import espalier.distributed.MpiJob;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Whole jobs on two GPUs, on the emulator and its stand-in for NCCL: the bits of one. */
@Tag("mpi")
class NcclJobsTest {

  /** The second is recorded, where steps are, and the third replayed. */
  private static final int STEPS = 3;

  @TempDir private Path temp;

  @BeforeEach
  void onTheEmulator() {
    MpiJob.requireEmulator();
  }

  /** More than one micro-batch a rank, and more than one sum of them where they are three. */
  @ParameterizedTest
  @ValueSource(ints = {1, 3})
  void adapt(int accumulate) throws Exception {
    assertSameBits(
        "adapter_model.safetensors",
        accumulate,
        "adapt",
        "--sae",
        "1=" + Golden.folder("sae-topk"),
        "--layers",
        "all",
        "--rank",
        "4",
        "--lr",
        "1e-2");
  }

  /** With what all ranks must know of all batches: the running threshold, and which are dead. */
  @Test
  void trainSae() throws Exception {
    assertSameBits(
        "sae_weights.safetensors",
        1,
        "train-sae",
        "--layer",
        "1",
        "--arch",
        "batchtopk",
        "--latents",
        "96",
        "--k",
        "6",
        "--batch",
        "1",
        "--dead-after",
        "40",
        "--aux-k",
        "5",
        "--lr",
        "5e-3");
  }

  @Test
  void evaluate() throws Exception {
    List<String> arguments = new ArrayList<>(List.of("evaluate", "--json"));
    arguments.addAll(List.of("--model", Golden.folder("llama").toString()));
    arguments.addAll(List.of("--sae", "1=" + Golden.folder("sae-topk")));
    arguments.addAll(List.of("--data", Golden.folder("tokens.npy").toString()));
    Outcome expected = Outcome.of(arguments);
    assertEquals(0, expected.code(), expected.err());
    assertEquals(expected.out(), ranks(arguments).out());
  }

  @Test
  void saesAreNotSharded() throws Exception {
    List<String> arguments = new ArrayList<>(List.of("evaluate", "--json", "--shard-sae"));
    arguments.addAll(List.of("--model", Golden.folder("llama").toString()));
    arguments.addAll(List.of("--sae", "1=" + Golden.folder("sae-topk")));
    arguments.addAll(List.of("--data", Golden.folder("tokens.npy").toString()));
    MpiJob.Outcome outcome = start(arguments);
    assertEquals(2, outcome.code(), outcome.err());
    assertTrue(outcome.err().contains("--shard-sae: SAEs are sharded on CPUs only"), outcome.err());
  }

  private void assertSameBits(String trained, int accumulate, String... arguments)
      throws Exception {
    Path alone = temp.resolve("alone");
    Outcome outcome = Outcome.of(training(alone, 2 * accumulate, arguments));
    assertEquals(0, outcome.code(), outcome.err());
    Path ranks = temp.resolve("ranks");
    ranks(training(ranks, accumulate, arguments));
    RunResults.assertSame(alone, ranks, STEPS);
    assertArrayEquals(
        Files.readAllBytes(alone.resolve(trained)), Files.readAllBytes(ranks.resolve(trained)));
  }

  private static List<String> training(Path out, int accumulate, String... arguments) {
    List<String> all = new ArrayList<>(List.of(arguments));
    all.addAll(List.of("--model", Golden.folder("llama").toString()));
    all.addAll(List.of("--data", Golden.folder("tokens.npy").toString()));
    all.addAll(List.of("--accumulate", String.valueOf(accumulate), "--out", out.toString()));
    all.addAll(List.of("--steps", String.valueOf(STEPS)));
    return all;
  }

  private static MpiJob.Outcome start(List<String> arguments) throws Exception {
    return MpiJob.start("openmpi", 2, MpiJob.EMULATOR, Main.class, arguments.toArray(String[]::new))
        .await();
  }

  private static MpiJob.Outcome ranks(List<String> arguments) throws Exception {
    MpiJob.Outcome outcome = start(arguments);
    assertEquals(0, outcome.code(), outcome.err());
    return outcome;
  }
}
