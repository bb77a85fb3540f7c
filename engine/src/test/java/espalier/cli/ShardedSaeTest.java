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
import espalier.format.Npy;
import espalier.format.SaeWeights.Activation;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** {@code --shard-sae} under {@code mpirun}: another place for the weights, and the same bits. */
@Tag("mpi")
class ShardedSaeTest {

  private static final int STEPS = 4;

  /** A prime, so that a batch is one row and the last round has batches for some ranks only. */
  private static final int ROWS = 31;

  private static final int CONTEXT = 24;
  private static final int VOCABULARY = 67;
  private static final int WIDTH = 42;
  private static final int LATENTS = 2 * 8192 + 1003;

  /** One latent in twenty is above its own: lists grow, and are not all of the SAE. */
  private static final double THRESHOLDS = 25;

  @TempDir private Path temp;
  private Path tokens;

  @BeforeEach
  void writeInputs() {
    Random random = new Random(3);
    tokens = temp.resolve("tokens.npy");
    int[] ids = random.ints((long) ROWS * CONTEXT, 0, VOCABULARY).toArray();
    MemorySegment rows = Arena.ofAuto().allocateFrom(ValueLayout.JAVA_INT, ids);
    Npy.write(tokens, ROWS, CONTEXT, rows);
    WideSae.write(temp.resolve("topk"), Activation.TOPK, WIDTH, LATENTS, 16);
    WideSae.write(temp.resolve("jumprelu"), Activation.JUMPRELU, WIDTH, LATENTS, 0, THRESHOLDS);
  }

  private List<String> command(String name, String... more) {
    List<String> arguments = new ArrayList<>(List.of(name));
    arguments.addAll(List.of("--model", Golden.folder("llama").toString()));
    arguments.addAll(List.of("--sae", "1=" + temp.resolve("topk")));
    arguments.addAll(List.of("--sae", "2=" + temp.resolve("jumprelu")));
    arguments.addAll(List.of("--data", tokens.toString()));
    arguments.addAll(List.of(more));
    return arguments;
  }

  /** Adapters below the SAEs too, so that gradients go through both. */
  private String[] adapt(String out, int accumulate, String... more) {
    List<String> arguments = command("adapt", "--out", temp.resolve(out).toString());
    arguments.addAll(List.of("--eval-data", tokens.toString(), "--eval-every", "2"));
    arguments.addAll(List.of("--accumulate", "" + accumulate, "--steps", "" + STEPS));
    arguments.addAll(List.of("--layers", "all", "--rank", "4", "--lr", "1e-2"));
    arguments.addAll(List.of("--checkpoint-every", "2"));
    arguments.addAll(List.of(more));
    return arguments.toArray(String[]::new);
  }

  private Path alone(String out, int accumulate, String... more) {
    Outcome outcome = Outcome.of(adapt(out, accumulate, more));
    assertEquals(0, outcome.code(), outcome.err());
    return temp.resolve(out);
  }

  private static MpiJob.Outcome ranks(String mpi, int ranks, String... arguments) throws Exception {
    MpiJob.Outcome outcome = MpiJob.run(mpi, ranks, Main.class, arguments);
    assertEquals(0, outcome.code(), outcome.err());
    return outcome;
  }

  private static void assertSame(Path expected, Path given) throws IOException {
    RunResults.assertSame(expected, given, STEPS);
    assertArrayEquals(
        Files.readAllBytes(expected.resolve("adapter_model.safetensors")),
        Files.readAllBytes(given.resolve("adapter_model.safetensors")));
  }

  /** Of the SAEs' weights, on each rank. */
  private static long[] saeBytes(Path run) throws IOException {
    JsonNode bytes = new ObjectMapper().readTree(run.resolve("run.json").toFile()).get("sae_bytes");
    long[] all = new long[bytes.size()];
    Arrays.setAll(all, r -> bytes.get(r).longValue());
    return all;
  }

  @ParameterizedTest
  @CsvSource({"openmpi,2,1", "openmpi,3,1", "openmpi,3,2", "mpich,2,1"})
  void adaptGivesTheBitsOfOneRank(String mpi, int ranks, int accumulate) throws Exception {
    Path expected = alone("alone", ranks * accumulate);
    ranks(mpi, ranks, adapt("sharded", accumulate, "--shard-sae"));
    Path sharded = temp.resolve("sharded");
    assertSame(expected, sharded);

    // Rows and columns of both matrices in each of two SAEs, in units of 64 latents, 16 columns.
    long[] whole = saeBytes(expected);
    long matrix = (long) LATENTS * WIDTH * Float.BYTES;
    assertEquals(1, whole.length);
    assertTrue(whole[0] >= 4 * matrix);
    long vectors = whole[0] - 4 * matrix;
    long columns = (WIDTH + 16 * ranks - 1) / (16 * ranks) * 16;
    long units = (LATENTS + 63) / 64;
    long[] held = saeBytes(sharded);
    assertEquals(ranks, held.length);
    for (int r = 0; r < ranks; r++) {
      long latents = Math.min(LATENTS, units * (r + 1) / ranks * 64) - units * r / ranks * 64;
      long floats = 4 * (latents * WIDTH + LATENTS * columns);
      assertEquals(floats * Float.BYTES + vectors, held[r]);
    }
  }

  /** What is done forwards only takes half of that. */
  @Test
  void withoutGradientsThereIsLessToHold() throws Exception {
    List<String> arguments = command("evaluate", "--json", "--shard-sae");
    arguments.addAll(List.of("--out", temp.resolve("out").toString()));
    ranks("openmpi", 3, arguments.toArray(String[]::new));
    long whole = 4L * LATENTS * WIDTH * Float.BYTES;
    long all = Arrays.stream(saeBytes(temp.resolve("out"))).sum();
    // 48 columns for 42, and vectors of 2 or 3 floats a latent on each rank.
    assertTrue(
        all < whole * (0.5 + 0.5 * 48 / 42) + 3L * 5 * LATENTS * Float.BYTES * 1.01, "" + all);
  }

  @Test
  void aShardedRunGoesOnWithout() throws Exception {
    ranks("openmpi", 3, adapt("whole", 2, "--shard-sae"));
    Path whole = temp.resolve("whole");
    ranks("openmpi", 2, adapt("resumed", 3, "--shard-sae"));
    Path resumed = temp.resolve("resumed");
    Files.delete(resumed.resolve("checkpoints/step-000004.safetensors"));
    Files.delete(resumed.resolve("adapter_model.safetensors"));
    assertSame(whole, alone("resumed", 6, "--resume"));
  }

  @ParameterizedTest
  @CsvSource({"openmpi,2", "openmpi,3", "mpich,2"})
  void evaluatePrintsTheDigitsOfOneProcess(String mpi, int ranks) throws Exception {
    String[] arguments =
        command(
                "evaluate",
                "--adapter",
                Golden.folder("adapter").toString(),
                "--metrics",
                "all",
                "--json")
            .toArray(String[]::new);
    Outcome alone = Outcome.of(arguments);
    assertEquals(0, alone.code(), alone.err());
    String[] sharded = Arrays.copyOf(arguments, arguments.length + 1);
    sharded[arguments.length] = "--shard-sae";
    assertEquals(alone.out(), ranks(mpi, ranks, sharded).out());
  }

  @Test
  void whatIsNotShardedSaysSo() throws Exception {
    Outcome alone = Outcome.of(adapt("out", 1, "--shard-sae"));
    assertEquals(2, alone.code());
    assertTrue(alone.err().contains("--shard-sae: there is only one process"), alone.err());
    assertRefused(adapt("out", 1, "--shard-sae", "--train", "lora+sae"), "--train lora+sae");
    String[] narrow = adapt("out", 1, "--shard-sae");
    narrow[4] = "1=" + Golden.folder("sae-topk");
    assertRefused(narrow, "64 latents, of which 64 stay together: too few for 2 ranks");
    List<String> noSae = new ArrayList<>(List.of("evaluate", "--shard-sae"));
    noSae.addAll(List.of("--model", Golden.folder("llama").toString()));
    noSae.addAll(List.of("--data", tokens.toString()));
    assertRefused(noSae.toArray(String[]::new), "--shard-sae needs --sae");
    assertFalse(Files.exists(temp.resolve("out")));
  }

  private static void assertRefused(String[] arguments, String named) throws Exception {
    MpiJob.Outcome outcome = MpiJob.run("openmpi", 2, Main.class, arguments);
    assertEquals(2, outcome.code(), outcome.err());
    assertEquals("", outcome.out());
    List<String> ours = outcome.err().lines().filter(l -> l.startsWith("espalier:")).toList();
    assertEquals(1, ours.size(), outcome.err());
    assertTrue(ours.getFirst().contains(named), ours.getFirst());
  }
}
