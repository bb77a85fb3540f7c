package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.Abroad;
import espalier.Golden;
import espalier.format.InputException;
import espalier.train.Interruption;
import espalier.train.Schedule;
import espalier.train.TrainingDivergedException;
import espalier.train.TrainingLoop;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Whole runs of {@code adapt} on a small model: they repeat, resume, stop and evaluate as promised.
 */
class AdaptRunTest {

  private static final int STEPS = 6;

  @TempDir private Path temp;

  private static AdaptSettings settings(Path out, Path sae, boolean resume) {
    return new AdaptSettings(
        Golden.folder("llama"),
        List.of(new SaeSpec(1, sae)),
        List.of(Golden.folder("tokens.npy")),
        out,
        "lora",
        "kl",
        OptionalInt.of(4),
        8,
        0.1,
        "all",
        "both",
        1e-2,
        Schedule.COSINE,
        2,
        0.01,
        1,
        1,
        2,
        24,
        OptionalInt.of(STEPS),
        7,
        Optional.of(Golden.folder("tokens.npy")),
        3,
        Optional.empty(),
        RowOrdering.SHUFFLED,
        resume,
        3);
  }

  private static Console silent() {
    return Console.to(new PrintStream(new ByteArrayOutputStream()));
  }

  private Path run(String name, boolean resume) {
    Path out = temp.resolve(name);
    assertEquals(
        TrainingLoop.End.DONE,
        new AdaptRecipe(settings(out, Golden.folder("sae-topk"), resume), silent()).run());
    return out;
  }

  private static byte[] adapter(Path out) throws IOException {
    return Files.readAllBytes(out.resolve("adapter_model.safetensors"));
  }

  /** All lines, without what depends on the clock. */
  private static List<ObjectNode> metrics(Path out) throws IOException {
    List<ObjectNode> lines = new ArrayList<>();
    for (String line : Files.readAllLines(out.resolve("metrics.jsonl"))) {
      ObjectNode node = (ObjectNode) new ObjectMapper().readTree(line);
      node.remove(List.of("step_ms", "tokens_per_second", "seconds"));
      lines.add(node);
    }
    return lines;
  }

  @Test
  void theSameSeedGivesTheSameRun() throws IOException {
    Path first = run("first", false);
    Path second = run("second", false);
    assertArrayEquals(adapter(first), adapter(second));
    assertEquals(metrics(first), metrics(second));
    assertEquals(
        List.of(0, 1, 2, 3, 3, 4, 5, 6, 6),
        metrics(first).stream().map(line -> line.get("step").intValue()).toList());
  }

  @Test
  void aResumedRunIsTheUninterruptedOne() throws IOException {
    Path whole = run("whole", false);
    Path resumed = temp.resolve("resumed");
    copy(whole, resumed);
    // As a kill at step 5 leaves it: the checkpoint of step 3, metrics beyond it, the last line cut
    // off.
    Files.delete(resumed.resolve("checkpoints/step-000006.safetensors"));
    Files.delete(resumed.resolve("adapter_model.safetensors"));
    Path log = resumed.resolve("metrics.jsonl");
    List<String> lines = Files.readAllLines(log);
    Files.writeString(log, String.join("\n", lines.subList(0, 7)) + "\n{\"step\": 6, \"tok");
    run("resumed", true);
    assertArrayEquals(adapter(whole), adapter(resumed));
    assertEquals(metrics(whole), metrics(resumed));
  }

  /** Says nothing, and asks for a stop when it is told of a step. */
  private static Console stopping(Interruption interruption, int step) {
    return Console.to(
        new PrintStream(new ByteArrayOutputStream()) {
          @Override
          public void println(String line) {
            if (line.startsWith("adapt: %d of ".formatted(step))) {
              interruption.request();
            }
          }
        });
  }

  /** Evaluations are due after steps 3 and 6: they are cut short, or not begun. */
  @ParameterizedTest
  @CsvSource({"0, 0", "1, 2", "2, 3", "3, 3", "5, 6", "6, 6"})
  void aStopDoesNotWaitForAnEvaluation(int asked, int stopped) throws IOException {
    Path out = temp.resolve("stopped");
    try (Interruption interruption = new Interruption()) {
      if (asked == 0) {
        interruption.request();
      }
      AdaptSettings settings = settings(out, Golden.folder("sae-topk"), false);
      assertEquals(
          TrainingLoop.End.INTERRUPTED,
          new AdaptRecipe(settings, stopping(interruption, asked)).run(interruption));
    }
    assertTrue(Files.exists(out.resolve("checkpoints/step-00000" + stopped + ".safetensors")));
    assertTrue(evaluations(out).stream().noneMatch(line -> line.get("step").intValue() == stopped));
    run("stopped", true);
    Path whole = run("whole", false);
    assertArrayEquals(adapter(whole), adapter(out));
    assertEquals(metrics(whole), metrics(out));
  }

  @Test
  void checkpointsAreNamedAlikeEverywhere() throws Exception {
    Abroad.run(() -> run("run", false));
    assertTrue(Files.exists(temp.resolve("run/checkpoints/step-000006.safetensors")));
    Abroad.run(() -> assertEquals(temp.resolve("step-000030"), HeldOutWatch.snapshot(temp, 30)));
  }

  @Test
  void aFinishedRunResumesToItself() throws IOException {
    Path whole = run("whole", false);
    byte[] before = adapter(whole);
    run("whole", true);
    assertArrayEquals(before, adapter(whole));
  }

  @Test
  void otherSettingsDoNotContinueARun() {
    Path out = run("run", false);
    AdaptSettings s = settings(out, Golden.folder("sae-jumprelu"), true);
    InputException refusal =
        assertThrows(InputException.class, () -> new AdaptRecipe(s, silent()).run());
    assertTrue(refusal.getMessage().contains("step-000006"), refusal.getMessage());
  }

  @Test
  void anAdapterThatHasLearntNothingChangesNothing() {
    ObjectNode first = evaluations(run("run", false)).getFirst();
    assertEquals(first.get("ce_sae"), first.get("ce_adapted"));
    assertEquals(first.get("kl_sae"), first.get("kl_adapted"));
    assertEquals(0, first.get("gap_closed").doubleValue());
  }

  @Test
  void whatWasWrittenEvaluatesAsInTraining() {
    Path out = run("run", false);
    ObjectNode last = evaluations(out).getLast();
    Evaluation again =
        new EvaluateRecipe(
                new EvaluateSettings(
                    Golden.folder("llama"),
                    List.of(new SaeSpec(1, Golden.folder("sae-topk"))),
                    Optional.of(out),
                    List.of(Golden.folder("tokens.npy")),
                    24,
                    MetricSet.ALL,
                    Optional.empty()),
                silent())
            .run();
    assertEquals(last.get("ce_adapted").doubleValue(), again.ceAdapted().orElseThrow());
    assertEquals(last.get("kl_adapted").doubleValue(), again.klAdapted().orElseThrow());
    assertTrue(
        again.klAdapted().orElseThrow() < again.klSae().orElseThrow(), "training reduced the KL");
  }

  @Test
  void aLossThatIsNotFiniteStopsTheRun() throws IOException {
    Path sae = temp.resolve("sae");
    copy(Golden.folder("sae-topk"), sae);
    Path weights = sae.resolve("sae_weights.safetensors");
    byte[] bytes = Files.readAllBytes(weights);
    int header = (int) ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).getLong();
    for (int i = 8 + header; i < bytes.length; i += Float.BYTES) {
      ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).putFloat(i, Float.NaN);
    }
    Files.write(weights, bytes);
    ByteArrayOutputStream said = new ByteArrayOutputStream();
    AdaptRecipe recipe =
        new AdaptRecipe(
            settings(temp.resolve("out"), sae, false), Console.to(new PrintStream(said)));
    TrainingDivergedException stop = assertThrows(TrainingDivergedException.class, recipe::run);
    assertTrue(stop.getMessage().startsWith("step 1: the loss is NaN"), stop.getMessage());
    assertTrue(said.toString().contains("WARNING: "), said.toString());
    assertFalse(Files.exists(temp.resolve("out/adapter_model.safetensors")));
  }

  private static List<ObjectNode> evaluations(Path out) {
    try {
      return metrics(out).stream().filter(line -> line.has("gap_closed")).toList();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static void copy(Path from, Path to) throws IOException {
    try (Stream<Path> files = Files.walk(from)) {
      for (Path file : files.toList()) {
        Files.copy(file, to.resolve(from.relativize(file)), StandardCopyOption.REPLACE_EXISTING);
      }
    }
  }
}
