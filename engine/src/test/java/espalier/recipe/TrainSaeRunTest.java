package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.Golden;
import espalier.format.InputException;
import espalier.format.Npy;
import espalier.format.SaeFile;
import espalier.format.SaeWeights;
import espalier.sae.ActivationSample.Centre;
import espalier.train.Schedule;
import espalier.train.TrainingLoop;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Whole runs of {@code train-sae} on a small model: they repeat, resume, learn, and leave SAEs that
 * load again.
 */
class TrainSaeRunTest {

  private static final int STEPS = 8;
  private static final int LATENTS = 96;

  @TempDir private Path temp;

  /** What differs from run to run. */
  private record Variant(
      String arch,
      String objective,
      List<Integer> layers,
      List<SaeSpec> initial,
      Optional<Path> cache,
      int steps,
      double clip) {

    static Variant of(String arch, String objective) {
      return new Variant(arch, objective, List.of(1), List.of(), Optional.empty(), STEPS, 1);
    }

    Variant layers(Integer... wanted) {
      return new Variant(arch, objective, List.of(wanted), initial, cache, steps, clip);
    }

    Variant from(Path sae) {
      return new Variant(arch, objective, layers, List.of(new SaeSpec(1, sae)), cache, steps, clip);
    }

    Variant cached(Path folder) {
      return new Variant(arch, objective, layers, initial, Optional.of(folder), steps, clip);
    }

    Variant steps(int wanted) {
      return new Variant(arch, objective, layers, initial, cache, wanted, clip);
    }

    Variant withoutClipping() {
      return new Variant(arch, objective, layers, initial, cache, steps, 0);
    }

    TrainSaeSettings settings(Path out, boolean resume) {
      return settings(Golden.folder("tokens.npy"), out, resume);
    }

    TrainSaeSettings settings(Path data, Path out, boolean resume) {
      return new TrainSaeSettings(
          Golden.folder("llama"),
          layers,
          initial,
          new TrainSaeSettings.Shape(
              arch,
              LATENTS,
              initial.isEmpty() ? OptionalInt.of(6) : OptionalInt.empty(),
              List.of(),
              0.3,
              40,
              Centre.MEDIAN),
          objective,
          new SaeLossWeights(0.02, 1, 3, 1.0 / 32, 5, 0.5, 2.5),
          List.of(data),
          out,
          5e-3,
          Schedule.LINEAR,
          2,
          clip,
          1,
          2,
          24,
          OptionalInt.of(steps),
          7,
          Optional.of(Golden.folder("tokens.npy")),
          4,
          cache,
          resume,
          4);
    }
  }

  private Path run(String name, Variant variant, boolean resume) {
    Path out = temp.resolve(name);
    Console silent = Console.to(new PrintStream(new ByteArrayOutputStream()));
    assertEquals(
        TrainingLoop.End.DONE, new TrainSaeRecipe(variant.settings(out, resume), silent).run());
    return out;
  }

  private static byte[] weights(Path out) throws IOException {
    return Files.readAllBytes(out.resolve("sae_weights.safetensors"));
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

  @ParameterizedTest
  @CsvSource({
    "topk, mse, topk, TOPK",
    "batchtopk, mse, jumprelu, JUMPRELU",
    "matryoshka, mse, jumprelu, JUMPRELU",
    "jumprelu, e2e, jumprelu, JUMPRELU",
    "standard, mse, standard, RELU",
    "gated, mse, gated, JUMPRELU",
    "gated, e2e, gated, JUMPRELU",
    "topk, e2e+ds, topk, TOPK",
  })
  void learnsAndWritesWhatLoadsAgain(
      String arch, String objective, String written, SaeWeights.Activation activation)
      throws IOException {
    Path out = run("run", Variant.of(arch, objective).steps(60), false);
    List<ObjectNode> lines = metrics(out);
    String field = objective.equals("mse") ? "fvu" : "kl";
    List<ObjectNode> steps = lines.stream().filter(line -> line.has("grad_norm")).toList();
    double first = steps.getFirst().get(field).doubleValue();
    double last = steps.getLast().get(field).doubleValue();
    assertTrue(last < 0.8 * first, field + " fell from " + first + " to " + last);
    ObjectNode evaluated = lines.getLast();
    double l0 = evaluated.at("/saes/1/l0").doubleValue();
    assertTrue(l0 > 0 && l0 < LATENTS, "l0 " + l0);
    try (SaeFile file = SaeFile.open(out)) {
      SaeWeights sae = file.weights();
      assertEquals(written, sae.architecture());
      assertEquals(activation, sae.activation());
      assertEquals(1, sae.site().orElseThrow().layer());
    }
    // What was written computes what training evaluated last.
    Evaluation again =
        new EvaluateRecipe(
                new EvaluateSettings(
                    Golden.folder("llama"),
                    List.of(new SaeSpec(1, out)),
                    Optional.empty(),
                    List.of(Golden.folder("tokens.npy")),
                    24,
                    MetricSet.BASIC,
                    Optional.empty()),
                Console.to(new PrintStream(new ByteArrayOutputStream())))
            .run();
    double expected = evaluated.get("ce_sae").doubleValue();
    assertEquals(expected, again.ceSae().orElseThrow(), 1e-6 * expected);
    assertEquals(l0, again.saes().get(1).l0(), 1e-12);
  }

  @ParameterizedTest
  @ValueSource(strings = {"topk", "batchtopk", "jumprelu", "gated"})
  void aResumedRunIsTheUninterruptedOne(String arch) throws IOException {
    Variant variant = Variant.of(arch, "mse").layers(1, 2);
    Path whole = run("whole", variant, false);
    Path resumed = temp.resolve("resumed");
    copy(whole, resumed);
    Files.delete(resumed.resolve("checkpoints/step-000008.safetensors"));
    for (int layer : variant.layers) {
      Files.delete(resumed.resolve("layer-" + layer + "/sae_weights.safetensors"));
    }
    run("resumed", variant, true);
    for (int layer : variant.layers) {
      String folder = "layer-" + layer;
      assertArrayEquals(weights(whole.resolve(folder)), weights(resumed.resolve(folder)));
    }
    assertEquals(metrics(whole), metrics(resumed));
  }

  @Test
  void severalLayersHaveMetricsOfTheirOwn() throws IOException {
    Path out = run("several", Variant.of("topk", "e2e").layers(2, 1), false);
    ObjectNode step = metrics(out).get(1);
    double mean = (step.at("/saes/1/kl").doubleValue() + step.at("/saes/2/kl").doubleValue()) / 2;
    assertEquals(mean, step.get("kl").doubleValue(), 1e-12);
    ObjectNode evaluated = metrics(out).getFirst();
    assertTrue(evaluated.at("/alone/1/ce_sae").isNumber());
    assertTrue(evaluated.at("/alone/2/ce_sae").isNumber());
    for (int layer : List.of(1, 2)) {
      try (SaeFile file = SaeFile.open(out.resolve("layer-" + layer))) {
        assertEquals(layer, file.weights().site().orElseThrow().layer());
      }
    }
  }

  @ParameterizedTest
  @CsvSource({"batchtopk, mse", "jumprelu, e2e"})
  void severalLayersAreTrainedAsEachAlone(String arch, String objective) throws IOException {
    Variant both = Variant.of(arch, objective).withoutClipping().layers(1, 2);
    Path together = run("together", both, false);
    for (int layer : List.of(1, 2)) {
      Path alone = run("alone-" + layer, both.layers(layer), false);
      assertArrayEquals(weights(alone), weights(together.resolve("layer-" + layer)));
    }
  }

  /** The short finish of an SAE starts from exactly what it is. */
  @ParameterizedTest
  @ValueSource(strings = {"topk", "jumprelu", "standard"})
  void finetuningStartsFromTheSae(String kind) throws IOException {
    Path out =
        run(
            "finish",
            Variant.of("topk", "kl-finetune").from(Golden.folder("sae-" + kind)).steps(30),
            false);
    List<ObjectNode> lines = metrics(out);
    ObjectNode start = lines.getFirst();
    double expected = Golden.scalars().at("/" + kind + "/ce_sae").doubleValue();
    assertEquals(expected, start.get("ce_sae").doubleValue(), 1e-5);
    double after = lines.getLast().get("kl_sae").doubleValue();
    assertTrue(after < start.get("kl_sae").doubleValue(), "the KL fell to " + after);
  }

  /** A cache changes nothing but where activations come from. */
  @Test
  void cachedActivationsAreTheModels() throws IOException {
    Path plain = run("plain", Variant.of("topk", "mse"), false);
    Path folder = temp.resolve("cache");
    Path filling = run("filling", Variant.of("topk", "mse").cached(folder), false);
    Path filled = run("filled", Variant.of("topk", "mse").cached(folder), false);
    assertArrayEquals(weights(plain), weights(filling));
    assertArrayEquals(weights(plain), weights(filled));
    assertEquals(metrics(plain), metrics(filled));
    Variant other = Variant.of("topk", "mse").layers(2).cached(folder);
    InputException refusal = assertThrows(InputException.class, () -> run("other", other, false));
    assertTrue(refusal.getMessage().contains("another model"), refusal.getMessage());
  }

  /** The model has positions for the longer of the two. */
  @Test
  void evaluationRowsMayBeLongerThanTrainingRows() throws IOException {
    Path shorter = temp.resolve("shorter.npy");
    try (Arena arena = Arena.ofConfined()) {
      Npy.write(shorter, 2, 16, arena.allocate(2 * 16 * Integer.BYTES).fill((byte) 0));
    }
    Path out = temp.resolve("out");
    TrainSaeSettings settings = Variant.of("topk", "mse").settings(shorter, out, false);
    new TrainSaeRecipe(settings, Console.to(new PrintStream(new ByteArrayOutputStream()))).run();
    double expected = Golden.scalars().at("/topk/ce_base").doubleValue();
    assertEquals(expected, metrics(out).getFirst().get("ce_base").doubleValue(), 1e-5);
  }

  @Test
  void whatDoesNotFitIsRefused() {
    refused(Variant.of("topk", "kl-finetune"), "--init-sae");
    refused(Variant.of("matryoshka", "e2e"), "matryoshka");
    refused(Variant.of("topk", "e2e+ds").layers(2), "needs at least two blocks behind layer 2");
    refused(Variant.of("topk", "mse").layers(4), "the model has layers 0 to 3");
    refused(Variant.of("topk", "mse").layers(1, 1), "twice");
    refused(Variant.of("topk", "e2e").cached(temp.resolve("c")), "--activation-cache");
    refused(Variant.of("sparse", "mse"), "--arch sparse");
    refused(Variant.of("topk", "mae"), "--objective mae");
  }

  private void refused(Variant variant, String why) {
    InputException refusal =
        assertThrows(InputException.class, () -> run("refused", variant, false));
    assertTrue(refusal.getMessage().contains(why), refusal.getMessage());
  }

  private static void copy(Path from, Path to) throws IOException {
    try (Stream<Path> files = Files.walk(from)) {
      for (Path file : files.toList()) {
        Files.copy(file, to.resolve(from.relativize(file)));
      }
    }
  }
}
