package espalier.recipe;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.TokenCache;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.format.OutputAdapterFile;
import espalier.format.PeftAdapter;
import espalier.lora.LoraAdapter;
import espalier.model.LanguageModel;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.SaeStatistics;
import java.nio.file.Path;
import java.util.Optional;
import java.util.SortedMap;
import java.util.function.Consumer;

/** {@code espalier evaluate}: what SAEs cost a model, and what adapters win back. */
public final class EvaluateRecipe {

  private final EvaluateSettings settings;
  private final Console console;
  private final Ranks started;
  private final boolean shardSae;
  private Ranks ranks;

  public EvaluateRecipe(EvaluateSettings settings, Console console) {
    this(settings, console, Ranks.alone(), false);
  }

  /**
   * All ranks run the recipe, share the data and get the whole result; rank 0 alone writes.
   *
   * @param ranks as they were started
   * @param shardSae whether they hold SAEs together, instead of each all of them
   */
  public EvaluateRecipe(EvaluateSettings settings, Console console, Ranks ranks, boolean shardSae) {
    this.shardSae = shardSae;
    this.settings = settings;
    this.console = ranks.isFirst() ? console : Console.silent();
    this.ranks = ranks;
    started = ranks;
  }

  private record Inputs(Saes saes, Evaluator evaluator) {}

  public Evaluation run() {
    return run(evaluation -> {});
  }

  /**
   * Everything is checked before anything is written.
   *
   * @param told on rank 0 of the result, before anything is written
   */
  public Evaluation run(Consumer<Evaluation> told) {
    Optional<RunFolder> folder = settings.out().map(out -> RunFolder.check(out, false));
    try (Device device = Device.open()) {
      ranks = started.on(device);
      Inputs in;
      try (ModelFolder files = ModelFolder.open(settings.model(), console::warn)) {
        in = read(device, files);
      }
      Evaluator evaluator = in.evaluator;
      evaluator.bind(device.allocate(evaluator.bytes()));
      Evaluation evaluation;
      try (Console.Progress progress = console.progress("evaluate", evaluator.work())) {
        evaluation = evaluator.evaluate(done -> progress.step(done, ""));
      }
      evaluation.warn(console);
      SaeFit.check(in.saes, evaluation.saes(), console);
      long[] saeBytes = in.saes.bytes(ranks);
      if (ranks.isFirst()) {
        told.accept(evaluation);
        folder.ifPresent(f -> write(f, evaluation, evaluator, saeBytes));
      }
      ranks.detach();
      return evaluation;
    }
  }

  private void write(
      RunFolder folder, Evaluation evaluation, Evaluator evaluator, long[] saeBytes) {
    folder.begin("evaluate", SettingsJson.of(settings), 0, saeBytes);
    folder.write("evaluation.json", evaluation.toJson());
    if (!evaluator.statistics().isEmpty()) {
      folder.write("latent_density.json", latentDensity(evaluator.statistics()));
    }
  }

  /** How often each latent was active: a count for each, by layer. */
  private static ObjectNode latentDensity(SortedMap<Integer, SaeStatistics> statistics) {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("tokens", statistics.firstEntry().getValue().summary().tokens());
    statistics.forEach(
        (layer, s) -> {
          ArrayNode counts = json.withObject("/saes").putArray(String.valueOf(layer));
          for (long count : s.firings()) {
            counts.add(count);
          }
        });
    return json;
  }

  private Inputs read(Device device, ModelFolder files) {
    ModelConfig config = files.config();
    SaeSpec.check(settings.saes(), config.numLayers());
    TokenCache cache = TokenCache.of(System.getenv(), console::warn);
    TokenRows rows =
        TokenRows.read(settings.data(), config, settings.model(), settings.context(), cache);
    Saes saes = Saes.load(device, settings.saes(), config, console, ranks, shardSae);
    LanguageModel model = LanguageModel.load(device, files, rows.context(), ranks, console::warn);
    Optional<Streams.Variant> student =
        settings.adapter().flatMap(path -> load(device, model, saes.byLayer(), path));
    return new Inputs(
        saes,
        new Evaluator(device, ranks, model, saes.byLayer(), student, rows, settings.metrics()));
  }

  private Optional<Streams.Variant> load(
      Device device, LanguageModel model, SortedMap<Integer, Sae> saes, Path path) {
    if (OutputAdapterFile.isIn(path)) {
      return Optional.of(
          new Streams.Variant(saes, Adapters.NONE)
              .adaptedOutputs(OutputAdapters.load(device, path, saes)));
    }
    try (PeftAdapter file = PeftAdapter.open(path, console::warn)) {
      return Evaluator.adapted(saes, LoraAdapter.load(device, model, file, 0).adapters());
    }
  }
}
