package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.ParameterSet;
import espalier.data.TokenCache;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.train.AdamW;
import espalier.train.Checkpoints;
import espalier.train.GradientSum;
import espalier.train.Interruption;
import espalier.train.MetricsLog;
import espalier.train.TrainingLoop;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.Optional;
import java.util.SplittableRandom;
import java.util.TreeMap;

/**
 * {@code espalier pretrain}: trains a small language model from random weights and writes it in
 * Hugging Face's layout.
 */
public final class PretrainRecipe {

  private final PretrainSettings settings;
  private final Console console;

  public PretrainRecipe(PretrainSettings settings, Console console) {
    this.settings = settings;
    this.console = console;
  }

  public TrainingLoop.End run() {
    try (Interruption interruption = new Interruption()) {
      return run(interruption);
    }
  }

  /**
   * @param interruption open until the caller has finished with the run's results (its report)
   */
  public TrainingLoop.End run(Interruption interruption) {
    RunFolder folder = RunFolder.check(settings.out(), settings.resume());
    ModelConfig config = ModelConfig.read(settings.config(), console::warn);
    Path beside = settings.config().toAbsolutePath().getParent();
    TokenCache cache = TokenCache.of(System.getenv(), console::warn);
    TokenRows rows = TokenRows.read(settings.data(), config, beside, settings.context(), cache);
    Optional<TokenRows> evalRows =
        settings
            .evalData()
            .map(f -> TokenRows.read(List.of(f), config, beside, rows.context(), cache));
    try (Device device = Device.open()) {
      return train(device, folder, config, rows, evalRows, interruption);
    }
  }

  private TrainingLoop.End train(
      Device device,
      RunFolder folder,
      ModelConfig config,
      TokenRows rows,
      Optional<TokenRows> evalRows,
      Interruption interruption) {
    ParameterSet parameters = LanguageModel.parameters(device, config);
    LanguageModel model =
        LanguageModel.initialise(device, config, parameters, new SplittableRandom(settings.seed()));
    TokenBatch batch =
        new TokenBatch(device, settings.batch(), rows.context(), config.specialIds());
    BatchSource source =
        new BatchSource(rows, RowOrdering.SHUFFLED.over(rows.count(), settings.seed()));
    PretrainObjective objective = new PretrainObjective(device, model, source, batch, 1);
    Optional<Evaluator> evaluator =
        evalRows.map(
            data ->
                new Evaluator(
                    device, Ranks.alone(), model.frozen(), new TreeMap<>(), Adapters.NONE, data));
    long bytes = Math.max(objective.tape().bytes(), evaluator.map(Evaluator::bytes).orElse(0L));
    MemorySegment workspace = device.allocate(bytes);
    objective.tape().bind(workspace);
    evaluator.ifPresent(e -> e.bind(workspace).stopWhen(interruption::isRequested));

    int steps = settings.steps().orElseGet(() -> rows.onePass(settings.batch()));
    Checkpoints checkpoints =
        new Checkpoints(folder.checkpoints(), RunFolder.fingerprint(settings, steps));
    Optional<Checkpoints.Saved> saved = settings.resume() ? checkpoints.latest() : Optional.empty();
    interruption.listen();
    try (MetricsLog metrics = new MetricsLog(folder.metrics())) {
      folder.begin("pretrain", SettingsJson.of(settings), settings.seed());
      TrainingLoop loop =
          new TrainingLoop(
              device,
              Ranks.alone(),
              new TrainingLoop.Settings(
                  steps,
                  1,
                  GradientSum.Order.FIXED,
                  settings.lr(),
                  settings.schedule(),
                  settings.warmup(),
                  evaluator.isPresent() ? steps : 0,
                  settings.checkpointEvery()),
              objective,
              AdamW.create(
                  device,
                  parameters,
                  AdamW.Hyperparameters.of(settings.weightDecay(), settings.clip())),
              Optional.of(metrics),
              checkpoints,
              interruption);
      TrainingRun run =
          new TrainingRun(
              device,
              "pretrain",
              console,
              "ce",
              steps,
              evaluator.map(e -> step -> crossEntropy(e)),
              Optional.empty());
      TrainingLoop.End end = run.train(loop, saved, checkpoints, folder.path());
      if (end == TrainingLoop.End.DONE) {
        save(folder, model);
      }
      return end;
    }
  }

  private static ObjectNode crossEntropy(Evaluator evaluator) {
    return JsonNodeFactory.instance
        .objectNode()
        .put("ce_base", evaluator.again(done -> {}).ceBase());
  }

  /** The model and, where there is one, the tokenizer that belongs to it. */
  private void save(RunFolder folder, LanguageModel model) {
    ModelFolder.write(folder.path(), model.config(), model.tensors());
    for (String name : List.of("tokenizer.json", "tokenizer_config.json")) {
      Path file = settings.config().resolveSibling(name);
      if (Files.exists(file)) {
        try {
          Files.copy(file, folder.path().resolve(name), StandardCopyOption.REPLACE_EXISTING);
        } catch (IOException e) {
          throw new UncheckedIOException(file + " cannot be copied", e);
        }
      }
    }
  }
}
