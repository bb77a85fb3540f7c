package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import espalier.Golden;
import espalier.format.InputException;
import espalier.format.Npy;
import espalier.sae.ActivationSample.Centre;
import espalier.train.Schedule;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** SAEs from files, trained further on the rows that they are evaluated on. */
class ContinuedSaeTest {

  private static final int ROWS = 3;

  @TempDir private Path temp;

  private static TrainSaeSettings settings(
      String kind, Path data, Path out, int batch, boolean resume) {
    return new TrainSaeSettings(
        Golden.folder("llama"),
        List.of(Golden.LAYER),
        List.of(new SaeSpec(Golden.LAYER, Golden.folder("sae-" + kind))),
        new TrainSaeSettings.Shape("topk", 1, OptionalInt.empty(), List.of(), 0.3, 40, Centre.MEAN),
        "mse",
        SaeLossWeights.DEFAULTS,
        List.of(data),
        out,
        1e-3,
        Schedule.CONSTANT,
        0,
        1,
        batch,
        1,
        24,
        OptionalInt.of(4),
        7,
        Optional.of(Golden.folder("tokens.npy")),
        4,
        Optional.empty(),
        resume,
        2);
  }

  private static void run(TrainSaeSettings settings) {
    new TrainSaeRecipe(settings, Console.to(new PrintStream(new ByteArrayOutputStream()))).run();
  }

  private static List<JsonNode> metrics(Path out) throws IOException {
    List<JsonNode> lines = new ArrayList<>();
    for (String line : Files.readAllLines(out.resolve("metrics.jsonl"))) {
      lines.add(new ObjectMapper().readTree(line));
    }
    return lines;
  }

  /** The first step sees, in one batch, what was evaluated before it. */
  @ParameterizedTest
  @ValueSource(strings = {"topk", "jumprelu", "standard"})
  void theErrorInTrainingIsTheOneEvaluated(String kind) throws IOException {
    Path out = temp.resolve("run");
    run(settings(kind, Golden.folder("tokens.npy"), out, ROWS, false));
    List<JsonNode> lines = metrics(out);
    double evaluated = lines.get(0).at("/saes/1/fvu").doubleValue();
    double trained = lines.get(1).get("fvu").doubleValue();
    assertEquals(evaluated, trained, 1e-5 * evaluated);
  }

  /** The variance is that of the run's first batch, wherever the run is resumed. */
  @Test
  void aResumedRunIsTheUninterruptedOne() throws IOException {
    Path out = temp.resolve("run");
    run(settings("topk", Golden.folder("tokens.npy"), out, 1, false));
    Path weights = out.resolve("sae_weights.safetensors");
    byte[] whole = Files.readAllBytes(weights);
    double fvu = metrics(out).get(4).get("fvu").doubleValue();
    Files.delete(out.resolve("checkpoints/step-000004.safetensors"));
    Files.delete(weights);
    run(settings("topk", Golden.folder("tokens.npy"), out, 1, true));
    assertArrayEquals(whole, Files.readAllBytes(weights));
    assertEquals(fvu, metrics(out).get(4).get("fvu").doubleValue());
  }

  /** One position has no variance. */
  @Test
  void aFirstBatchWithoutVarianceIsRefused() {
    Path data = temp.resolve("rows.npy");
    int[] row = {1, 5}; // BOS and another
    Npy.write(data, 1, 2, Arena.ofAuto().allocateFrom(ValueLayout.JAVA_INT, row));
    InputException refusal =
        assertThrows(
            InputException.class, () -> run(settings("topk", data, temp.resolve("run"), 1, false)));
    assertTrue(refusal.getMessage().contains("no variance"), refusal.getMessage());
  }
}
