package espalier.model;

import static espalier.Golden.assertClose;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.format.ModelFolder;
import espalier.format.PeftAdapter;
import espalier.format.Safetensors;
import espalier.lora.LoraAdapter;
import espalier.nn.Adapters;
import espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * The smallest model of every family against transformers, and with an adapter against PEFT; both
 * compute in float32. Written by bench/reference/make_family_fixtures.py.
 */
class FamilyGoldenTest {

  /** Of the largest value: two float32 computations in different order. */
  private static final double TOLERANCE = 1e-5;

  @ParameterizedTest
  @ValueSource(
      strings = {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox"})
  void computesWhatTransformersDoes(String family) {
    Path root = Path.of("src/test/resources/families", family);
    try (Device device = Device.open();
        ModelFolder folder = ModelFolder.open(root.resolve("model"));
        PeftAdapter file = PeftAdapter.open(root.resolve("adapter"));
        Safetensors expected = Safetensors.open(root.resolve("expected.safetensors"))) {
      LanguageModel model = LanguageModel.load(device, folder);
      TokenRows rows =
          TokenRows.read(List.of(root.resolve("tokens.npy")), folder.config(), root, 0);
      TokenBatch batch =
          new TokenBatch(device, rows.count(), rows.context(), folder.config().specialIds());
      int[] row = new int[rows.context()];
      for (int i = 0; i < rows.count(); i++) {
        rows.copyRow(i, row);
        batch.set(i, row);
      }
      List<Tensor> stream = run(device, model, batch, Adapters.NONE);
      float[] hidden = values(device, expected, "hidden");
      int size = hidden.length / stream.size();
      for (int i = 0; i < stream.size(); i++) {
        float[] state = Arrays.copyOfRange(hidden, i * size, (i + 1) * size);
        assertClose(family + " hidden state " + i, state, stream.get(i).toArray(), TOLERANCE);
      }
      assertClose(
          family + " logits",
          values(device, expected, "logits"),
          logits(device, model, stream.getLast()),
          TOLERANCE);
      LoraAdapter adapter = LoraAdapter.load(device, model, file, 0);
      stream = run(device, model, batch, adapter.adapters().frozen());
      assertClose(
          family + " adapted logits",
          values(device, expected, "adapted"),
          logits(device, model, stream.getLast()),
          TOLERANCE);
    }
  }

  private static List<Tensor> run(
      Device device, LanguageModel model, TokenBatch batch, Adapters adapters) {
    Tape tape = new Tape(device);
    List<Var> stream = new ArrayList<>();
    Var x = model.embed(tape, batch);
    for (int layer = 0; layer < model.layers(); layer++) {
      stream.add(tape.output(x));
      x = model.block(tape, layer, x, batch, adapters);
    }
    stream.add(tape.output(model.finalNorm(tape, x)));
    tape.bind(device);
    tape.forward();
    return stream.stream().map(Var::value).toList();
  }

  private static float[] logits(Device device, LanguageModel model, Tensor hidden) {
    Tensor logits = Tensor.allocate(device, hidden.rows(), model.head().rows());
    model.logits(device, hidden, logits);
    return logits.toArray();
  }

  private static float[] values(Device device, Safetensors file, String name) {
    var entry = file.tensor(name);
    Tensor copy = Tensor.allocate(device, 1, entry.size());
    entry.copyTo(device, copy);
    return copy.toArray();
  }
}
