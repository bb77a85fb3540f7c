package espalier.recipe;

import espalier.device.Device;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.format.PeftAdapter;
import espalier.lora.LoraAdapter;
import espalier.model.LanguageModel;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.SequencedMap;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * The variants of a model that {@code score}, {@code probe} and {@code steer} compare: the
 * original, with SAEs, with adapters around them, and with the adapters but without the SAEs, which
 * shows what the adaptation did to the model itself.
 *
 * @param longest tokens of a text, as the model was loaded
 * @param byName {@code base}, and as far as there are SAEs and an adapter {@code sae}, {@code
 *     adapted}, {@code adapted_without_sae}
 */
record Variants(
    LanguageModel model,
    SortedMap<Integer, Sae> saes,
    int longest,
    SequencedMap<String, Streams.Variant> byName) {

  static Variants load(Device device, VariantsSettings settings, Console console) {
    try (ModelFolder files = ModelFolder.open(settings.model(), console::warn)) {
      ModelConfig config = files.config();
      SaeSpec.check(settings.saes(), config.numLayers());
      int positions = Math.min(settings.context(), config.maxPositionEmbeddings());
      SortedMap<Integer, Sae> saes = Saes.load(device, settings.saes(), config, console).byLayer();
      LanguageModel model = LanguageModel.load(device, files, positions);
      SequencedMap<String, Streams.Variant> byName = new LinkedHashMap<>();
      byName.put("base", Streams.Variant.ORIGINAL);
      if (!saes.isEmpty()) {
        byName.put("sae", new Streams.Variant(saes, Adapters.NONE));
      }
      if (settings.adapter().isPresent()) {
        try (PeftAdapter file = PeftAdapter.open(settings.adapter().get(), console::warn)) {
          Adapters adapters = LoraAdapter.load(device, model, file, 0).adapters().frozen();
          byName.put("adapted", new Streams.Variant(saes, adapters));
          byName.put("adapted_without_sae", new Streams.Variant(new TreeMap<>(), adapters));
        }
      }
      return new Variants(model, saes, positions, byName);
    }
  }

  List<String> names() {
    return List.copyOf(byName.keySet());
  }
}
