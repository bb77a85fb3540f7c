package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.Golden;
import espalier.autograd.Parameter;
import espalier.autograd.ParameterSet;
import espalier.data.RowOrder;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.distributed.Ranks;
import espalier.format.Safetensors;
import espalier.format.TensorEntry;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.sae.Sae;
import espalier.sae.SaeDesign;
import espalier.sae.TrainableSae;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Objectives that go through the rest of the model, against PyTorch in float64 (written by
 * bench/reference/make_sae_training_fixtures.py). PyTorch's own float32 errs by up to 1e-6 of a
 * tensor's largest gradient there.
 */
class SaeObjectiveGoldenTest {

  private static final double GRADIENT = 1e-5;
  private static final double LOSS = 4e-6;
  private static final int DEAD_AFTER = 1000;
  private static final Path FOLDER = Path.of("src/test/resources/sae-training");

  /** Of the fixtures: no auxiliary loss, no aim for L0. */
  private static SaeLossWeights weights(double downstream) {
    return new SaeLossWeights(0, 1, 0, 0, 0, 0.5, downstream);
  }

  private final Device device = Device.openCpu();

  @AfterEach
  void close() {
    device.close();
  }

  private static JsonNode expected() {
    try {
      return new ObjectMapper().readTree(FOLDER.resolve("expected.json").toFile());
    } catch (IOException e) {
      throw new IllegalStateException(e);
    }
  }

  private float[] gradient(String name) {
    try (Safetensors file = Safetensors.open(FOLDER.resolve("objectives.safetensors"))) {
      TensorEntry entry = file.tensor(name);
      Tensor copy = Tensor.allocate(device, 1, entry.size());
      entry.copyTo(device, copy);
      return copy.toArray();
    }
  }

  private final class Job {
    final ParameterSet parameters;
    final SaeObjective objective;

    Job(String kind, SaeLoss loss, int batchSize, int accumulate) {
      this(kind, loss, weights(2.5), 1, batchSize, accumulate);
    }

    Job(
        String kind,
        SaeLoss loss,
        SaeLossWeights weights,
        double variance,
        int batchSize,
        int accumulate) {
      LanguageModel model = Golden.model(device, "llama");
      Sae sae = Golden.sae(device, kind);
      float bandwidth = (float) expected().at("/coefficients/bandwidth").doubleValue();
      SaeDesign design = TrainableSae.designOf(sae, 0, bandwidth, DEAD_AFTER);
      parameters = new ParameterSet(device, TrainableSae.shapes("", design, sae.inputs()));
      TrainableSae trainable = TrainableSae.from(device, parameters, "", design, sae, variance);
      float[] silent = new float[design.latents()];
      Arrays.fill(silent, DEAD_AFTER);
      trainable.silent().copyFrom(silent);
      TokenRows rows = Golden.tokens(model.config());
      TokenBatch batch =
          new TokenBatch(
              device, batchSize, rows.context(), model.config().specialIds(), accumulate);
      objective =
          new SaeObjective(
              device,
              model,
              new TreeMap<>(Map.of(Golden.LAYER, trainable)),
              loss,
              weights,
              new BatchSource(rows, RowOrder.sequential(rows.count())),
              batch,
              accumulate,
              Ranks.alone(),
              Optional.empty());
      objective.tape().bind(device);
    }

    /** One micro-batch of a step, and the numbers it leaves. */
    double[] accumulate(int index) {
      MemorySegment numbers = device.allocate((long) objective.numbers() * Double.BYTES);
      objective.prepare(index, index);
      objective.accumulate(index, numbers);
      device.synchronize();
      return Transfer.doubles(numbers);
    }
  }

  @ParameterizedTest
  @CsvSource({"e2e+ds, topk", "kl-finetune, topk", "kl-finetune, jumprelu"})
  void everyGradient(String objective, String kind) {
    Job job = new Job(kind, SaeLoss.parse(objective), 3, 1);
    double[] sums = job.accumulate(0);
    String name = objective + "/" + kind;
    for (Parameter parameter : job.parameters.parameters()) {
      String key = name + "/" + parameter.name();
      Golden.assertClose(key, gradient(key), parameter.gradient().toArray(), GRADIENT);
    }
    ObjectNode line = JsonNodeFactory.instance.objectNode();
    job.objective.describe(line, sums, 1);
    JsonNode losses = expected().get(name);
    close(losses.get("kl"), line.get("kl").doubleValue());
    if (losses.has("downstream")) {
      close(losses.get("downstream"), line.get("downstream").doubleValue());
    }
    // fvu is of the 66 positions that the SAE is applied to, of 72
    close(losses.get("error"), line.get("fvu").doubleValue() * 66 / 72);
  }

  /**
   * Errors are fractions of the variance. One of 4, by which floats are divided exactly, leaves a
   * quarter of each; a downstream weight four times as large makes up for it beside the KL.
   */
  @ParameterizedTest
  @CsvSource({"mse, 2.5, 4", "kl-finetune, 2.5, 4", "e2e+ds, 10, 1"})
  void errorsAreFractionsOfTheVariance(String objective, double downstream, float smaller) {
    SaeLoss loss = SaeLoss.parse(objective);
    SaeLossWeights auxiliary = new SaeLossWeights(0, 1, 0, 0.5, 5, 0.5, 2.5);
    Job unit = new Job("topk", loss, auxiliary, 1, 3, 1);
    SaeLossWeights weights = new SaeLossWeights(0, 1, 0, 0.5, 5, 0.5, downstream);
    Job job = new Job("topk", loss, weights, 4, 3, 1);
    ObjectNode expected = JsonNodeFactory.instance.objectNode();
    ObjectNode line = JsonNodeFactory.instance.objectNode();
    unit.objective.describe(expected, unit.accumulate(0), 1);
    job.objective.describe(line, job.accumulate(0), 1);
    for (String error : List.of("fvu", "auxiliary", "downstream")) {
      assertEquals(expected.path(error).doubleValue() / 4, line.path(error).doubleValue(), error);
    }
    assertEquals(loss.hasReconstruction(), expected.path("auxiliary").doubleValue() > 0);
    float[] gradients = job.parameters.gradients().toArray();
    for (int i = 0; i < gradients.length; i++) {
      gradients[i] *= smaller;
    }
    assertArrayEquals(unit.parameters.gradients().toArray(), gradients);
  }

  private static void close(JsonNode expected, double actual) {
    assertEquals(expected.doubleValue(), actual, LOSS * expected.doubleValue());
  }

  /** Micro-batches of one row add up to the batch of three. */
  @Test
  void accumulatedGradientsAreThoseOfTheBatch() {
    Job whole = new Job("topk", SaeLoss.E2E_DOWNSTREAM, 3, 1);
    whole.accumulate(0);
    Job parts = new Job("topk", SaeLoss.E2E_DOWNSTREAM, 1, 3);
    for (int i = 0; i < 3; i++) {
      parts.accumulate(i);
    }
    Golden.assertClose(
        "gradients",
        whole.parameters.gradients().toArray(),
        parts.parameters.gradients().toArray(),
        GRADIENT);
  }
}
