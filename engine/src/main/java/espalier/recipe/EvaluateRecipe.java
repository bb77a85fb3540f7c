package espalier.recipe;

import espalier.data.TokenRows;
import espalier.device.Control;
import espalier.device.Device;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.format.PeftAdapter;
import espalier.lora.LoraAdapter;
import espalier.model.LanguageModel;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import java.nio.file.Path;
import java.util.SortedMap;

/** {@code espalier evaluate}: what SAEs cost a model, and what adapters win back. */
public final class EvaluateRecipe {

  private final EvaluateSettings settings;
  private final Console console;

  public EvaluateRecipe(EvaluateSettings settings, Console console) {
    this.settings = settings;
    this.console = console;
  }

  public Evaluation run() {
    try (Device device = Device.openCpu()) {
      Evaluator evaluator;
      try (ModelFolder files = ModelFolder.open(settings.model())) {
        evaluator = read(device, files);
      }
      evaluator.bind(device.allocate(evaluator.bytes()));
      try (Console.Progress progress = console.progress("evaluate", evaluator.work())) {
        return evaluator.evaluate(done -> progress.step(done, ""));
      }
    }
  }

  private Evaluator read(Device device, ModelFolder files) {
    ModelConfig config = files.config();
    SaeSpec.check(settings.saes(), config.numLayers());
    TokenRows rows = TokenRows.read(settings.data(), config, settings.model(), settings.context());
    SortedMap<Integer, Sae> saes = Saes.load(device, settings.saes(), config, console);
    LanguageModel model = LanguageModel.load(device, files);
    Adapters adapters =
        settings.adapter().map(path -> load(device, model, path)).orElse(Adapters.NONE);
    return new Evaluator(device, model, saes, adapters, rows);
  }

  private static Adapters load(Device device, LanguageModel model, Path path) {
    try (PeftAdapter file = PeftAdapter.open(path)) {
      return LoraAdapter.load(device, model, file, 0, new Control(device)).adapters();
    }
  }
}
