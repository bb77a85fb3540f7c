package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.Golden;
import espalier.autograd.LanguageModelHead;
import espalier.autograd.Parameter;
import espalier.autograd.ParameterSet;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.data.RowOrder;
import espalier.data.TokenRows;
import espalier.device.Control;
import espalier.device.Device;
import espalier.format.PeftAdapter;
import espalier.lora.LoraAdapter;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.SaeDesign;
import espalier.sae.Sparsity;
import espalier.sae.TrainableSae;
import espalier.sae.TrainedSplice;
import espalier.tensor.Tensor;
import espalier.train.AdamW;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * Losses and every gradient against PyTorch in float64. PyTorch's own float32 errs by up to 2e-6 of
 * a tensor's largest gradient, by 3e-6 after ten optimizer steps; the bounds are a few times that,
 * as other orders of summation err differently.
 */
class GradientGoldenTest {

  private static final double GRADIENT = 1e-5;
  private static final double SCALAR = 2e-6;

  private Device device;

  @BeforeEach
  void open() {
    device = Device.open();
  }

  @AfterEach
  void close() {
    device.close();
  }

  @ParameterizedTest
  @CsvSource({
    "adapter, topk",
    "adapter-all, topk",
    "adapter-all, jumprelu",
    "adapter-all, standard"
  })
  void everyAdapterGradient(String adapter, String kind) {
    Adapting job = new Adapting(adapter, kind);
    double loss = job.accumulate(0) / job.batch.batch();
    JsonNode expected = Golden.scalars().at("/adapt/first").get(adapter + "/" + kind);
    assertRelative(expected.get("loss"), loss, SCALAR);
    assertRelative(expected.get("grad_norm"), job.gradientNorm(), SCALAR);
    for (Parameter parameter : job.lora.parameters().parameters()) {
      String name = adapter + "/" + kind + "/grad/" + parameter.name();
      Golden.assertClose(name, golden("adapt", name), parameter.gradient().toArray(), GRADIENT);
    }
  }

  /** Micro-batches of one row add up to the batch of three. */
  @Test
  void accumulatedGradientsAreThoseOfTheBatch() {
    Adapting whole = new Adapting("adapter-all", "topk");
    whole.accumulate(0);
    Adapting parts = new Adapting("adapter-all", "topk", 1, 3);
    for (int i = 0; i < 3; i++) {
      parts.accumulate(i);
    }
    Golden.assertClose(
        "gradients",
        whole.lora.parameters().gradients().toArray(),
        parts.lora.parameters().gradients().toArray(),
        GRADIENT);
  }

  @Test
  void tenOptimizerSteps() {
    Adapting job = new Adapting("adapter", "topk");
    JsonNode expected = Golden.scalars().get("adapt");
    int steps = expected.at("/adam/steps").intValue();
    for (int step = 0; step < steps; step++) {
      Tensor gradients = job.lora.parameters().gradients();
      device.kernels().fill(gradients.data(), 0, gradients.size());
      double loss = job.accumulate(0) / job.batch.batch();
      assertRelative(expected.get("loss").get(step), loss, GRADIENT);
      assertRelative(expected.get("grad_norm").get(step), job.gradientNorm(), 3 * GRADIENT);
      job.update(step + 1, expected.at("/adam/lr").doubleValue());
    }
    for (Parameter parameter : job.lora.parameters().parameters()) {
      String name = "adapter/topk/final/" + parameter.name();
      Golden.assertClose(name, golden("adapt", name), parameter.value().toArray(), 3 * GRADIENT);
    }
  }

  /** A job of {@code adapt} on the golden model, bound and ready, whose steps are taken apart. */
  private final class Adapting {
    final TokenBatch batch;
    final LoraAdapter lora;
    final AdaptObjective objective;
    final AdamW optimizer;
    final MemorySegment numbers = device.allocate(Double.BYTES);

    Adapting(String adapter, String kind) {
      this(adapter, kind, 3, 1);
    }

    Adapting(String adapter, String kind, int batchSize, int accumulate) {
      LanguageModel model;
      try (PeftAdapter file = PeftAdapter.open(Golden.folder(adapter))) {
        model = Golden.model(device, "llama", file);
        lora = LoraAdapter.load(device, model, file, 0);
      }
      TokenRows rows = Golden.tokens(model.config());
      batch = new TokenBatch(device, batchSize, rows.context(), model.config().specialIds());
      SortedMap<Integer, Sae> saes = new TreeMap<>(Map.of(Golden.LAYER, Golden.sae(device, kind)));
      objective =
          new AdaptObjective(
              device,
              model,
              new Streams.Variant(saes, lora.adapters()),
              AdaptObjective.Loss.KL,
              new BatchSource(rows, RowOrder.sequential(rows.count())),
              batch,
              accumulate,
              1);
      objective.tape().bind(device);
      JsonNode adam = Golden.scalars().at("/adapt/adam");
      optimizer =
          AdamW.create(
              device,
              lora.parameters(),
              AdamW.Hyperparameters.of(
                  adam.get("weight_decay").doubleValue(), adam.get("clip").doubleValue()));
    }

    /** Adds the gradients of a micro-batch; returns its loss. */
    double accumulate(long index) {
      Control control = device.control();
      objective.prepare(index, 0);
      control.clearResults();
      control.upload();
      objective.accumulate(0, numbers);
      control.download();
      device.synchronize();
      return control.loss();
    }

    double gradientNorm() {
      Control control = device.control();
      Tensor gradients = lora.parameters().gradients();
      device.kernels().globalNorm(gradients.data(), gradients.size(), control.data());
      control.download();
      device.synchronize();
      return control.gradientNorm();
    }

    void update(long step, double lr) {
      Control control = device.control();
      control.step(step);
      control.learningRate(lr);
      control.upload();
      optimizer.update(device);
      lora.parameters().round(device.kernels());
    }
  }

  @Test
  void everyWeightGradientOfPretraining() {
    for (String name : List.of("llama", "llama-untied")) {
      LanguageModel frozen = Golden.model(device, name);
      ParameterSet parameters = LanguageModel.parameters(device, frozen.config());
      LanguageModel model = LanguageModel.trainable(device, frozen, parameters);
      TokenBatch batch = Golden.batch(device, model.config());
      Tape tape = new Tape(device);
      Var x = model.embed(tape, batch);
      for (int layer = 0; layer < model.layers(); layer++) {
        x = model.block(tape, layer, x, batch, Adapters.NONE);
      }
      Var ce =
          LanguageModelHead.crossEntropy(
              tape,
              model.finalNorm(tape, x),
              model.head(),
              0,
              batch.targets(),
              1f / batch.predictions());
      tape.bind(device);
      tape.forward();
      tape.backward();
      assertRelative(
          Golden.scalars().at("/pretrain/" + name + "/loss"),
          sum(ce.value()) / batch.predictions(),
          SCALAR);
      model
          .gradients()
          .forEach(
              output -> {
                String key = name + "/" + output.name();
                if (name.equals("llama") || Golden.has("pretrain", key)) {
                  Golden.assertClose(
                      key, golden("pretrain", key), output.tensor().toArray(), GRADIENT);
                }
              });
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"topk", "jumprelu", "standard"})
  void everyGradientOfAnSae(String kind) {
    LanguageModel model = Golden.model(device, "llama");
    TokenBatch batch = Golden.batch(device, model.config());
    for (boolean endToEnd : List.of(false, true)) {
      JsonNode expected = Golden.scalars().at("/train_sae/" + kind);
      Sae from = Golden.sae(device, kind);
      float bandwidth = (float) expected.path("bandwidth").asDouble(1);
      SaeDesign design = TrainableSae.designOf(from, 0, bandwidth, 1000);
      ParameterSet parameters =
          new ParameterSet(device, TrainableSae.shapes("", design, from.inputs()));
      TrainableSae trainable = TrainableSae.from(device, parameters, "", design, from, 1);
      Sparsity sparsity = new Sparsity(device, 1);
      int n = 66;
      if (!endToEnd) {
        float coefficient = (float) expected.get("sparsity").doubleValue() / n;
        sparsity.prepare(
            0,
            kind.equals("standard") ? coefficient : 0,
            kind.equals("jumprelu") ? coefficient : 0,
            0);
        sparsity.upload(0);
      }
      Tape tape = new Tape(device);
      Var x = model.embed(tape, batch);
      for (int layer = 0; layer <= Golden.LAYER; layer++) {
        x = model.block(tape, layer, x, batch, Adapters.NONE);
      }
      TrainedSplice splice =
          TrainedSplice.into(
              tape,
              x,
              trainable,
              batch.keep(),
              sparsity,
              new TrainedSplice.Losses(endToEnd ? 0 : 1f / n, 0),
              null);
      Var loss = endToEnd ? throughTheRest(tape, model, batch, x, splice) : splice.error();
      tape.bind(device);
      tape.forward();
      tape.backward();
      double scale = endToEnd ? batch.batch() : n;
      assertRelative(
          expected.get(endToEnd ? "e2e_loss" : "error"), sum(loss.value()) / scale, SCALAR);
      for (Parameter parameter : parameters.parameters()) {
        String key = kind + (endToEnd ? "/e2e/" : "/mse/") + parameter.name();
        Tensor gradient = parameter.gradient();
        float[] actual =
            parameter.name().equals("W_enc") ? transposed(gradient) : gradient.toArray();
        Golden.assertClose(key, golden("train-sae", key), actual, GRADIENT);
      }
    }
  }

  private Var throughTheRest(
      Tape tape, LanguageModel model, TokenBatch batch, Var teacher, TrainedSplice splice) {
    Var student = splice.output();
    for (int layer = Golden.LAYER + 1; layer < model.layers(); layer++) {
      teacher = model.block(tape, layer, teacher, batch, Adapters.NONE);
      student = model.block(tape, layer, student, batch, Adapters.NONE);
    }
    return LanguageModelHead.kl(
            tape,
            model.finalNorm(tape, student),
            model.finalNorm(tape, teacher),
            model.head(),
            0,
            MemorySegment.NULL,
            1f / batch.batch())
        .kl();
  }

  private float[] golden(String file, String name) {
    return Golden.values(device, file, name);
  }

  private static float[] transposed(Tensor matrix) {
    float[] out = new float[(int) matrix.size()];
    for (int r = 0; r < matrix.rows(); r++) {
      for (int c = 0; c < matrix.cols(); c++) {
        out[(int) (c * matrix.rows() + r)] = matrix.get(r, c);
      }
    }
    return out;
  }

  private static double sum(Tensor values) {
    double sum = 0;
    for (float value : values.toArray()) {
      sum += value;
    }
    return sum;
  }

  private static void assertRelative(JsonNode expected, double actual, double tolerance) {
    double value = expected.doubleValue();
    assertEquals(value, actual, tolerance * Math.abs(value));
  }
}
