package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import espalier.Golden;
import espalier.WideSae;
import espalier.distributed.MpiJob;
import espalier.format.SaeWeights.Activation;
import espalier.train.StepProfiler;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Whole jobs on two and three GPUs, on the emulator and its stand-in for NCCL: the bits of one. */
@Tag("mpi")
class NcclJobsTest {

  /** The second is recorded, where steps are, and the third replayed. */
  private static final int STEPS = 3;

  private static final int WIDTH = 42;

  /** So many that lists of the JumpReLU SAE outgrow their first length. */
  private static final int LATENTS = 1203;

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
    assertEquals(expected.out(), ranks(2, arguments).out());
  }

  /** SAEs in parts: adapters below and above both, so that gradients go through. */
  private String[] wideSaes() {
    WideSae.write(temp.resolve("topk"), Activation.TOPK, WIDTH, LATENTS, 16);
    WideSae.write(temp.resolve("jumprelu"), Activation.JUMPRELU, WIDTH, LATENTS, 0);
    return new String[] {
      "--sae", "1=" + temp.resolve("topk"), "--sae", "2=" + temp.resolve("jumprelu")
    };
  }

  /**
   * The first step is repeated, as lists grow; the second is recorded, the third replayed, and the
   * fourth measured, call by call.
   */
  @ParameterizedTest
  @CsvSource({"2, 1", "3, 1", "2, 3"})
  void adaptWithSaesInParts(int ranks, int accumulate) throws Exception {
    List<String> job = new ArrayList<>(List.of("adapt", "--layers", "all", "--rank", "4"));
    job.addAll(List.of("--lr", "1e-2", "--eval-every", "2"));
    job.addAll(List.of("--eval-data", Golden.folder("tokens.npy").toString()));
    job.addAll(List.of(wideSaes()));
    String[] arguments = job.toArray(String[]::new);
    int steps = StepProfiler.WARM + 1;
    Path alone = temp.resolve("alone");
    Outcome outcome = Outcome.of(training(alone, steps, ranks * accumulate, arguments));
    assertEquals(0, outcome.code(), outcome.err());
    Path parts = temp.resolve("parts");
    List<String> sharded = training(parts, steps, accumulate, arguments);
    sharded.addAll(List.of("--shard-sae", "--profile", temp.resolve("profile.json").toString()));
    String said = ranks(ranks, sharded).err();
    assertFalse(said.contains("call by call"), said);
    RunResults.assertSame(alone, parts, steps);
    String trained = "adapter_model.safetensors";
    assertArrayEquals(
        Files.readAllBytes(alone.resolve(trained)), Files.readAllBytes(parts.resolve(trained)));

    // Rows and columns of both matrices in each of two SAEs, in units of 128 latents, 16 columns.
    long matrix = (long) LATENTS * WIDTH * Float.BYTES;
    long vectors = saeBytes(alone).get(0).longValue() - 4 * matrix;
    long columns = (WIDTH + 16 * ranks - 1) / (16 * ranks) * 16;
    JsonNode held = saeBytes(parts);
    assertEquals(ranks, held.size());
    for (int r = 0; r < ranks; r++) {
      long units = (LATENTS + 127) / 128;
      long end = Math.min(LATENTS, units * (r + 1) / ranks * 128);
      long latents = end - units * r / ranks * 128;
      long floats = 4 * (latents * WIDTH + LATENTS * columns);
      assertEquals(floats * Float.BYTES + vectors, held.get(r).longValue());
    }
  }

  private static JsonNode saeBytes(Path run) throws IOException {
    return new ObjectMapper().readTree(run.resolve("run.json").toFile()).get("sae_bytes");
  }

  @ParameterizedTest
  @ValueSource(ints = {2, 3})
  void evaluateWithSaesInParts(int ranks) throws Exception {
    List<String> arguments = new ArrayList<>(List.of("evaluate", "--json", "--metrics", "all"));
    arguments.addAll(List.of("--model", Golden.folder("llama").toString()));
    arguments.addAll(List.of("--adapter", Golden.folder("adapter").toString()));
    arguments.addAll(List.of("--data", Golden.folder("tokens.npy").toString()));
    arguments.addAll(List.of(wideSaes()));
    Outcome expected = Outcome.of(arguments);
    assertEquals(0, expected.code(), expected.err());
    JsonNode jumprelu = new ObjectMapper().readTree(expected.out()).at("/saes/2");
    assertTrue(jumprelu.get("l0").doubleValue() > 256, "lists must have grown: " + jumprelu);
    arguments.add("--shard-sae");
    assertEquals(expected.out(), ranks(ranks, arguments).out());
  }

  /** Slices of 128 latents, the fewest that are cut. */
  @Test
  void narrowSaesAreNotSharded() throws Exception {
    List<String> arguments = new ArrayList<>(List.of("evaluate", "--json", "--shard-sae"));
    arguments.addAll(List.of("--model", Golden.folder("llama").toString()));
    arguments.addAll(List.of("--sae", "1=" + Golden.folder("sae-topk")));
    arguments.addAll(List.of("--data", Golden.folder("tokens.npy").toString()));
    MpiJob.Outcome outcome = start(2, arguments);
    assertEquals(2, outcome.code(), outcome.err());
    assertTrue(
        outcome.err().contains("64 latents, of which 128 stay together: too few for 2 ranks"),
        outcome.err());
  }

  private void assertSameBits(String trained, int accumulate, String... arguments)
      throws Exception {
    Path alone = temp.resolve("alone");
    Outcome outcome = Outcome.of(training(alone, STEPS, 2 * accumulate, arguments));
    assertEquals(0, outcome.code(), outcome.err());
    Path ranks = temp.resolve("ranks");
    ranks(2, training(ranks, STEPS, accumulate, arguments));
    RunResults.assertSame(alone, ranks, STEPS);
    assertArrayEquals(
        Files.readAllBytes(alone.resolve(trained)), Files.readAllBytes(ranks.resolve(trained)));
  }

  private static List<String> training(Path out, int steps, int accumulate, String... arguments) {
    List<String> all = new ArrayList<>(List.of(arguments));
    all.addAll(List.of("--model", Golden.folder("llama").toString()));
    all.addAll(List.of("--data", Golden.folder("tokens.npy").toString()));
    all.addAll(List.of("--accumulate", String.valueOf(accumulate), "--out", out.toString()));
    all.addAll(List.of("--steps", String.valueOf(steps)));
    return all;
  }

  private static MpiJob.Outcome start(int ranks, List<String> arguments) throws Exception {
    String[] all = arguments.toArray(String[]::new);
    return MpiJob.start("openmpi", ranks, MpiJob.EMULATOR, Main.class, all).await();
  }

  private static MpiJob.Outcome ranks(int ranks, List<String> arguments) throws Exception {
    MpiJob.Outcome outcome = start(ranks, arguments);
    assertEquals(0, outcome.code(), outcome.err());
    return outcome;
  }
}
