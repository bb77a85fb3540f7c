package espalier.recipe;

import static espalier.Golden.assertClose;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.autograd.LanguageModelHead;
import espalier.autograd.Parameter;
import espalier.autograd.Tape;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.format.ModelFolder;
import espalier.format.PeftAdapter;
import espalier.format.SaeSite;
import espalier.format.SaeWeights.Activation;
import espalier.format.SaeWeights.Normalisation;
import espalier.lora.LoraAdapter;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.sae.Sae;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Gradients pass through an SAE that changes nothing as if it were not there, at every site. */
class SiteGradientTest {

  private static final int LAYER = 1;

  @ParameterizedTest
  @ValueSource(strings = {"llama", "gemma2", "gpt2", "gpt_neox"})
  void anSaeThatChangesNothingChangesNoGradient(String family) {
    float[] expected = gradient(family, null, Normalisation.NONE);
    double largest = 0;
    for (float value : expected) {
      largest = Math.max(largest, Math.abs(value));
    }
    assertTrue(largest > 1e-4, "there is a gradient: " + largest);
    for (SaeSite.Kind site :
        List.of(
            SaeSite.Kind.ATTENTION_HEADS,
            SaeSite.Kind.ATTENTION_MODULE_OUT,
            SaeSite.Kind.ATTENTION_OUT,
            SaeSite.Kind.MLP_MODULE_OUT,
            SaeSite.Kind.MLP_OUT,
            SaeSite.Kind.RESIDUAL)) {
      // Not LAYER_NORM: dividing by std + 1e-5 and multiplying by std does change something.
      for (Normalisation normalisation : List.of(Normalisation.NONE, Normalisation.CONSTANT_NORM)) {
        assertClose(
            family + " " + site + " " + normalisation,
            expected,
            gradient(family, site, normalisation),
            2e-5);
      }
    }
  }

  /** Of all LoRA matrices, for the KL to the model without adapter and SAE. */
  private static float[] gradient(String family, SaeSite.Kind site, Normalisation normalisation) {
    Path root = Path.of("src/test/resources/families", family);
    try (Device device = Device.open();
        ModelFolder folder = ModelFolder.open(root.resolve("model"));
        PeftAdapter file = PeftAdapter.open(root.resolve("adapter"))) {
      LanguageModel model = LanguageModel.load(device, folder);
      LoraAdapter lora = LoraAdapter.load(device, model, file, 0);
      TokenRows rows =
          TokenRows.read(List.of(root.resolve("tokens.npy")), folder.config(), root, 0);
      TokenBatch batch = new TokenBatch(device, 1, rows.context(), folder.config().specialIds());
      int[] row = new int[rows.context()];
      rows.copyRow(0, row);
      batch.set(0, row);
      SortedMap<Integer, Sae> saes = new TreeMap<>();
      if (site != null) {
        int heads = folder.config().numHeads() * folder.config().headDim();
        int width = site == SaeSite.Kind.ATTENTION_HEADS ? heads : folder.config().hiddenSize();
        saes.putAll(Map.of(LAYER, identity(device, site, width, normalisation)));
      }
      Tape tape = new Tape(device);
      List<Streams.Pass> passes =
          Streams.record(
              tape,
              model,
              batch,
              List.of(Streams.Variant.ORIGINAL, new Streams.Variant(saes, lora.adapters())));
      LanguageModelHead.kl(
          tape,
          passes.get(1).hidden(),
          passes.get(0).hidden(),
          model.head(),
          model.finalSoftcap(),
          MemorySegment.NULL,
          1);
      tape.bind(device);
      Tensor gradients = lora.parameters().gradients();
      device.kernels().fill(gradients.data(), 0, gradients.size());
      tape.forward();
      tape.backward();
      return gradients.toArray();
    }
  }

  /** Latents are the positive and the negative part of each element. */
  private static Sae identity(
      Device device, SaeSite.Kind site, int width, Normalisation normalisation) {
    float[] rows = new float[2 * width * width];
    for (int i = 0; i < width; i++) {
      rows[i * width + i] = 1;
      rows[(width + i) * width + i] = -1;
    }
    return new Sae(
        site,
        Activation.RELU,
        0,
        parameter(device, 2 * width, width, rows),
        parameter(device, 1, 2 * width, new float[2 * width]),
        null,
        parameter(device, 2 * width, width, rows),
        parameter(device, 1, width, new float[width]),
        null,
        null,
        normalisation,
        normalisation != Normalisation.NONE);
  }

  private static Parameter parameter(Device device, int rows, int cols, float... values) {
    Tensor tensor = Tensor.allocate(device, rows, cols);
    tensor.copyFrom(values);
    return Parameter.frozen("identity", tensor);
  }
}
