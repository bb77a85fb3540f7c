package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.model.LanguageModel;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/** Evaluates an SAE on held-out text while it is trained. */
final class DemoWatch implements TrainSaeRecipe.Watch {

  private final Path data;
  private final int layer;
  private final int every;
  private Evaluator evaluator;

  DemoWatch(Path data, int layer, int every) {
    this.data = data;
    this.layer = layer;
    this.every = every;
  }

  @Override
  public int every() {
    return every;
  }

  @Override
  public ObjectNode measure(
      Device device, LanguageModel model, Path modelFolder, int context, Sae sae) {
    if (evaluator == null) {
      TokenRows rows = TokenRows.read(List.of(data), model.config(), modelFolder, context);
      evaluator =
          new Evaluator(device, model, new TreeMap<>(Map.of(layer, sae)), Adapters.NONE, rows);
      evaluator.bind(device.allocate(evaluator.bytes()));
    }
    return evaluator.again(done -> {}).toJson();
  }
}
