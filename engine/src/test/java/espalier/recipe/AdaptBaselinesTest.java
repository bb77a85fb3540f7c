package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.Golden;
import espalier.autograd.Parameter;
import espalier.data.RowOrder;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.format.InputException;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.sae.Sae;
import espalier.tensor.Tensor;
import espalier.train.Schedule;
import espalier.train.TrainingLoop;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** What {@code adapt} trains beside LoRA, and on the text instead of the original. */
class AdaptBaselinesTest {

  private static final int STEPS = 12;
  private static final Path TOKENS = Golden.folder("tokens.npy");

  @TempDir private Path temp;

  private static AdaptSettings settings(
      Path out, String train, String objective, String kind, boolean resume) {
    return new AdaptSettings(
        Golden.folder("llama"),
        List.of(new SaeSpec(1, Golden.folder("sae-" + kind))),
        List.of(TOKENS),
        out,
        train,
        objective,
        OptionalInt.of(4),
        8,
        0,
        "after",
        "both",
        5e-3,
        Schedule.CONSTANT,
        2,
        0,
        1,
        1,
        2,
        24,
        OptionalInt.of(STEPS),
        7,
        Optional.of(TOKENS),
        6,
        Optional.empty(),
        RowOrdering.SHUFFLED,
        resume,
        6);
  }

  private static Console silent() {
    return Console.to(new PrintStream(new ByteArrayOutputStream()));
  }

  private Path run(String name, String train, String objective, String kind, boolean resume) {
    Path out = temp.resolve(name);
    assertEquals(
        TrainingLoop.End.DONE,
        new AdaptRecipe(settings(out, train, objective, kind, resume), silent()).run());
    return out;
  }

  private static List<ObjectNode> evaluations(Path out) throws IOException {
    List<ObjectNode> lines = new ArrayList<>();
    for (String line : Files.readAllLines(out.resolve("metrics.jsonl"))) {
      ObjectNode node = (ObjectNode) new ObjectMapper().readTree(line);
      if (node.has("ce_adapted")) {
        lines.add(node);
      }
    }
    return lines;
  }

  private static Evaluation evaluate(Path sae, Optional<Path> adapter) {
    return new EvaluateRecipe(
            new EvaluateSettings(
                Golden.folder("llama"),
                List.of(new SaeSpec(1, sae)),
                adapter,
                List.of(TOKENS),
                24,
                MetricSet.BASIC,
                Optional.empty()),
            silent())
        .run();
  }

  @ParameterizedTest
  @CsvSource({
    "lora, kl, topk",
    "linear, kl, topk",
    "mlp, kl, jumprelu",
    "sae, kl, topk",
    "sae, kl, jumprelu",
    "sae, kl, standard",
    "lora+sae, kl, topk",
    "lora, ce, topk",
    "linear, ce, jumprelu",
    "lora+sae, ce, standard",
  })
  void learnsFromNothingAndLeavesWhatItMeasured(String train, String objective, String kind)
      throws IOException {
    Path out = run("run", train, objective, kind, false);
    List<ObjectNode> lines = evaluations(out);
    ObjectNode first = lines.getFirst();
    assertEquals(
        first.get("ce_sae").doubleValue(), first.get("ce_adapted").doubleValue(), 1e-6, "at first");
    ObjectNode last = lines.getLast();
    String field = objective + "_adapted";
    assertTrue(last.get(field).doubleValue() < first.get(field).doubleValue(), field);
    double before = lines.get(1).get("seconds").doubleValue();
    assertTrue(0 < before && before < last.get("seconds").doubleValue());

    boolean trainsSae = train.endsWith("sae");
    Path sae = trainsSae ? out.resolve("layer-1") : Golden.folder("sae-" + kind);
    Optional<Path> adapter = train.equals("sae") ? Optional.empty() : Optional.of(out);
    Evaluation again = evaluate(sae, adapter);
    double ce = adapter.isEmpty() ? again.ceSae().orElseThrow() : again.ceAdapted().orElseThrow();
    // Folding multiplies by 1: what is written is what was trained.
    assertEquals(last.get("ce_adapted").doubleValue(), ce, 1e-12);
  }

  @ParameterizedTest
  @ValueSource(strings = {"mlp", "lora+sae"})
  void aResumedRunIsTheUninterruptedOne(String train) throws IOException {
    Path whole = run("whole", train, "kl", "topk", false);
    Path resumed = temp.resolve("resumed");
    try (Stream<Path> files = Files.walk(whole)) {
      for (Path file : files.toList()) {
        Files.copy(file, resumed.resolve(whole.relativize(file)));
      }
    }
    Files.delete(resumed.resolve("checkpoints/step-000012.safetensors"));
    run("resumed", train, "kl", "topk", true);
    List<String> written =
        train.equals("mlp")
            ? List.of("output_adapter.safetensors")
            : List.of("adapter_model.safetensors", "layer-1/sae_weights.safetensors");
    for (String name : written) {
      assertArrayEquals(
          Files.readAllBytes(whole.resolve(name)), Files.readAllBytes(resumed.resolve(name)), name);
    }
  }

  /** The KL through the rest of the model, as PyTorch has it in float64. */
  @ParameterizedTest
  @ValueSource(strings = {"topk", "jumprelu", "standard"})
  void everyGradientOfAnSaeThatIsTrained(String kind) {
    try (Device device = Device.openCpu()) {
      LanguageModel model = Golden.model(device, "llama");
      TokenRows rows = Golden.tokens(model.config());
      TokenBatch batch = new TokenBatch(device, 3, rows.context(), model.config().specialIds());
      SortedMap<Integer, Sae> saes = new TreeMap<>(Map.of(Golden.LAYER, Golden.sae(device, kind)));
      Adaptation adaptation =
          Adaptation.begin(
              device, model, saes, settings(temp.resolve("none"), "sae", "kl", kind, false));
      AdaptObjective objective =
          new AdaptObjective(
              device,
              model,
              adaptation.student(),
              AdaptObjective.Loss.KL,
              new BatchSource(rows, RowOrder.sequential(rows.count())),
              batch,
              1,
              1);
      objective.tape().bind(device);
      objective.prepare(0, 0);
      objective.accumulate(0, device.allocate(Double.BYTES));
      device.synchronize();
      for (Parameter parameter : adaptation.parameters().parameters()) {
        String name = parameter.name().substring("layer.1.".length());
        if (name.equals("threshold")) {
          continue; // the fixture's bandwidth is another
        }
        String key = kind + "/e2e/" + name;
        Tensor gradient = parameter.gradient();
        float[] actual = gradient.toArray();
        if (name.equals("W_enc")) {
          actual = transposed(actual, (int) gradient.rows(), (int) gradient.cols());
        }
        Golden.assertClose(key, Golden.values(device, "train-sae", key), actual, 1e-5);
      }
    }
  }

  private static float[] transposed(float[] matrix, int rows, int cols) {
    float[] out = new float[matrix.length];
    for (int i = 0; i < matrix.length; i++) {
      out[i % cols * rows + i / cols] = matrix[i];
    }
    return out;
  }

  @Test
  void whatDoesNotFitIsRefused() {
    assertRefused("--train all", "all", "kl");
    assertRefused("--objective mse", "lora", "mse");
    Path out = run("linear", "linear", "kl", "topk", false);
    InputException other =
        assertThrows(
            InputException.class,
            () ->
                new EvaluateRecipe(
                        new EvaluateSettings(
                            Golden.folder("llama"),
                            List.of(new SaeSpec(2, Golden.folder("sae-topk"))),
                            Optional.of(out),
                            List.of(TOKENS),
                            24,
                            MetricSet.BASIC,
                            Optional.empty()),
                        silent())
                    .run());
    assertTrue(other.getMessage().contains("but no such --sae is given"), other.getMessage());
  }

  private void assertRefused(String why, String train, String objective) {
    InputException refusal =
        assertThrows(
            InputException.class,
            () -> settings(temp.resolve("x"), train, objective, "topk", false));
    assertTrue(refusal.getMessage().contains(why), refusal.getMessage());
  }
}
