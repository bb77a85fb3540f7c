package espalier.recipe;

import espalier.Golden;
import espalier.data.RowOrder;
import espalier.data.TokenRows;
import espalier.device.Control;
import espalier.device.Device;
import espalier.device.Replay;
import espalier.format.PeftAdapter;
import espalier.lora.LoraAdapter;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.sae.Sae;
import espalier.tensor.Tensor;
import espalier.train.AdamW;
import java.lang.foreign.MemorySegment;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;

/** Steps of {@code adapt} on the golden model with a JumpReLU SAE, AdamW included. */
final class GoldenSteps {

  final Device device;
  final AdaptObjective objective;
  final AdamW optimizer;
  final MemorySegment numbers;
  final Replay step;

  GoldenSteps(Device device) {
    this.device = device;
    LanguageModel model;
    LoraAdapter lora;
    try (PeftAdapter file = PeftAdapter.open(Golden.folder("adapter-all"))) {
      model = Golden.model(device, "llama", file);
      lora = LoraAdapter.load(device, model, file, 0.25);
    }
    TokenRows rows = Golden.tokens(model.config());
    SortedMap<Integer, Sae> saes =
        new TreeMap<>(Map.of(Golden.LAYER, Golden.sae(device, "jumprelu")));
    objective =
        new AdaptObjective(
            device,
            model,
            new Streams.Variant(saes, lora.adapters()),
            AdaptObjective.Loss.KL,
            new BatchSource(rows, RowOrder.sequential(rows.count())),
            new TokenBatch(device, 1, rows.context(), model.config().specialIds()),
            1,
            7);
    objective.tape().bind(device);
    optimizer = AdamW.create(device, lora.parameters(), AdamW.Hyperparameters.of(0.01, 1));
    numbers = device.allocate(Double.BYTES);
    step = device.replay(this::queue);
  }

  private void queue() {
    Tensor gradients = optimizer.parameters().gradients();
    device.control().upload();
    device.kernels().fill(gradients.data(), 0, gradients.size());
    objective.accumulate(0, numbers);
    optimizer.update(device);
    optimizer.parameters().round(device.kernels());
    device.control().download();
  }

  /** Losses and gradient norms of a few steps, then the parameters. */
  double[] run(int steps, boolean replayed) {
    double[] seen = new double[2 * steps];
    for (int i = 0; i < steps; i++) {
      objective.prepare(i, 0);
      Control control = device.control();
      control.clearResults();
      control.step(i + 1);
      control.learningRate(1e-3);
      if (replayed) {
        step.run();
      } else {
        queue();
      }
      device.synchronize();
      seen[2 * i] = control.loss();
      seen[2 * i + 1] = control.gradientNorm();
    }
    return seen;
  }

  float[] parameters() {
    return optimizer.parameters().values().toArray();
  }
}
