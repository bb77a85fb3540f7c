package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.TokenCache;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.format.PeftAdapter;
import espalier.lora.LoraAdapter;
import espalier.lora.LoraSettings;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.train.AdamW;
import espalier.train.Checkpoints;
import espalier.train.Interruption;
import espalier.train.MetricsLog;
import espalier.train.TrainingLoop;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.SortedSet;
import java.util.SplittableRandom;
import java.util.TreeSet;
import java.util.stream.Collectors;

/**
 * {@code espalier adapt}: trains adapters around frozen SAEs until the model behaves like itself
 * again (Chen, Engels and Tegmark 2025).
 */
public final class AdaptRecipe {

  private final AdaptSettings settings;
  private final Console console;
  private final Parallel parallel;
  private final Ranks ranks;

  public AdaptRecipe(AdaptSettings settings, Console console) {
    this(settings, console, Parallel.alone());
  }

  /** All ranks run the recipe; rank 0 alone writes. */
  public AdaptRecipe(AdaptSettings settings, Console console, Parallel parallel) {
    this.settings = settings;
    this.parallel = parallel;
    ranks = parallel.ranks();
    this.console = ranks.isFirst() ? console : Console.silent();
  }

  /** What the run works on, read and checked. */
  private record Inputs(
      LanguageModel model,
      Saes saes,
      LoraAdapter lora,
      TokenRows rows,
      Optional<TokenRows> evalRows) {}

  /** Everything is checked before anything is written. */
  public TrainingLoop.End run() {
    RunFolder folder = RunFolder.check(settings.out(), settings.resume());
    try (Device device = Device.open()) {
      Inputs inputs;
      try (ModelFolder files = ModelFolder.open(settings.model())) {
        inputs = read(device, files);
      }
      return train(device, folder, inputs);
    }
  }

  private Inputs read(Device device, ModelFolder files) {
    ModelConfig config = files.config();
    SaeSpec.check(settings.saes(), config.numLayers());
    TokenCache cache = TokenCache.of(System.getenv(), console::warn);
    TokenRows rows =
        TokenRows.read(settings.data(), config, settings.model(), settings.context(), cache);
    Optional<TokenRows> evalRows =
        settings
            .evalData()
            .map(f -> TokenRows.read(List.of(f), config, settings.model(), rows.context(), cache));
    Saes saes = Saes.load(device, settings.saes(), config, console);
    int positions = Math.max(rows.context(), evalRows.map(TokenRows::context).orElse(0));
    LanguageModel model = LanguageModel.load(device, files, positions);
    return new Inputs(model, saes, adapter(device, model), rows, evalRows);
  }

  private LoraAdapter adapter(Device device, LanguageModel model) {
    if (settings.initAdapter().isEmpty()) {
      LoraSettings lora =
          LoraSettings.uniform(
              AdapterChoice.paths(
                  settings.targets(),
                  AdapterChoice.layers(settings.layers(), settings.saes(), model.layers()),
                  model),
              settings.rank().orElse(AdaptSettings.DEFAULT_RANK),
              settings.alpha(),
              settings.dropout());
      return LoraAdapter.initialise(device, model, lora, new SplittableRandom(settings.seed()));
    }
    try (PeftAdapter file = PeftAdapter.open(settings.initAdapter().get())) {
      SortedSet<Integer> ranks = new TreeSet<>();
      file.layers().values().forEach(layer -> ranks.add(layer.rank()));
      if (settings.rank().isPresent() && !ranks.equals(Set.of(settings.rank().getAsInt()))) {
        throw new InputException(
            "--rank %d: the adapter of --init-adapter has rank %s"
                .formatted(
                    settings.rank().getAsInt(),
                    ranks.stream().map(String::valueOf).collect(Collectors.joining(", "))));
      }
      return LoraAdapter.load(device, model, file, settings.dropout());
    }
  }

  private TrainingLoop.End train(Device device, RunFolder folder, Inputs in) {
    TokenBatch batch =
        new TokenBatch(
            device,
            settings.batch(),
            in.rows.context(),
            in.model.config().specialIds(),
            settings.accumulate());
    AdaptObjective objective =
        new AdaptObjective(
            device,
            in.model,
            in.saes.byLayer(),
            in.lora.adapters(),
            new BatchSource(in.rows, settings.order().over(in.rows.count(), settings.seed())),
            batch,
            microBatches(),
            settings.seed());
    Optional<Evaluator> evaluator =
        in.evalRows.map(
            data -> new Evaluator(device, in.model, in.saes.byLayer(), in.lora.adapters(), data));
    // What an evaluation before the first step does not tell, a sample does.
    Optional<SaeFit> fit =
        evaluator.isPresent() || settings.resume()
            ? Optional.empty()
            : Optional.of(new SaeFit(device, in.model, in.saes, in.rows));
    // Training and evaluation never run at once: they share their memory.
    long bytes = objective.tape().bytes();
    bytes = Math.max(bytes, evaluator.map(Evaluator::bytes).orElse(0L));
    bytes = Math.max(bytes, fit.map(SaeFit::bytes).orElse(0L));
    MemorySegment workspace = device.allocate(bytes);
    fit.ifPresent(f -> SaeFit.check(in.saes, f.measure(workspace), console));
    objective.tape().bind(workspace);
    evaluator.ifPresent(e -> e.bind(workspace));

    int steps = settings.steps().orElse(onePass(in.rows));
    Checkpoints checkpoints =
        new Checkpoints(folder.checkpoints(), RunFolder.fingerprint(settings, steps, ranks.size()));
    Optional<Checkpoints.Saved> saved = settings.resume() ? checkpoints.latest() : Optional.empty();
    AdamW optimizer =
        AdamW.create(
            device,
            in.lora.parameters(),
            AdamW.Hyperparameters.of(settings.weightDecay(), settings.clip()));
    ranks.gather(); // what one rank refuses, nobody has begun
    if (ranks.isFirst()) {
      folder.begin("adapt", SettingsJson.of(settings), settings.seed(), ranks.size());
    }
    TrainingRun run =
        new TrainingRun(
            device,
            "adapt",
            console,
            "kl",
            steps,
            evaluator.map(e -> step -> evaluate(e, in.saes)));
    try (MetricsLog metrics = ranks.isFirst() ? new MetricsLog(folder.metrics()) : null;
        Interruption interruption = new Interruption()) {
      TrainingLoop loop =
          new TrainingLoop(
              device,
              ranks,
              new TrainingLoop.Settings(
                  steps,
                  settings.accumulate(),
                  parallel.order(),
                  settings.lr(),
                  settings.schedule(),
                  settings.warmup(),
                  evaluator.isEmpty() ? 0 : settings.evalEvery() > 0 ? settings.evalEvery() : steps,
                  settings.checkpointEvery()),
              objective,
              optimizer,
              Optional.ofNullable(metrics),
              checkpoints,
              interruption);
      TrainingLoop.End end = run.train(loop, saved, checkpoints, folder.path());
      if (end == TrainingLoop.End.DONE && ranks.isFirst()) {
        in.lora.save(folder.path(), settings.model().getFileName().toString());
      }
      return end;
    }
  }

  private ObjectNode evaluate(Evaluator evaluator, Saes saes) {
    boolean first = evaluator.isFirst();
    Evaluation evaluation = evaluator.evaluate(done -> {});
    if (first) {
      SaeFit.check(saes, evaluation.saes(), console);
    }
    return evaluation.toJson();
  }

  private int onePass(TokenRows rows) {
    return Math.max(1, rows.count() / (settings.batch() * microBatches()));
  }

  /** Of a step, on all ranks together. */
  private int microBatches() {
    return Math.multiplyExact(settings.accumulate(), ranks.size());
  }
}
