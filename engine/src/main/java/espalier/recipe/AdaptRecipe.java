package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.TokenCache;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.train.AdamW;
import espalier.train.Checkpoints;
import espalier.train.Interruption;
import espalier.train.MetricsLog;
import espalier.train.TrainingLoop;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Optional;

/**
 * {@code espalier adapt}: trains adapters around frozen SAEs until the model behaves like itself
 * again (Chen, Engels and Tegmark 2025), or trains something else that this is compared with: see
 * {@link AdaptTarget}.
 */
public final class AdaptRecipe {

  private final AdaptSettings settings;
  private final Console console;
  private Optional<Path> profile = Optional.empty();
  private final Parallel parallel;
  private Ranks ranks;

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

  /** What the run works on, read and checked, except the model's weights: those take longest. */
  private record Inputs(
      LanguageModel model,
      Saes saes,
      Adaptation adaptation,
      TokenRows rows,
      Optional<TokenRows> evalRows) {}

  /**
   * What the run computes, and in which memory.
   *
   * @param fit checks the SAEs on a sample; empty where an evaluation before the first step does so
   * @param workspace memory for the activations of a step, an evaluation or the sample, in turn
   */
  private record Plan(
      AdaptObjective objective,
      Optional<Evaluator> evaluator,
      Optional<SaeFit> fit,
      MemorySegment workspace,
      AdamW optimizer) {}

  /** Measures a few steps kernel by kernel and writes their time line to a file. */
  public AdaptRecipe profile(Optional<Path> file) {
    profile = file;
    return this;
  }

  public TrainingLoop.End run() {
    try (Interruption interruption = new Interruption()) {
      return run(interruption);
    }
  }

  /**
   * Everything is checked before anything is written.
   *
   * @param interruption open until the caller has finished with the run's results (its report)
   */
  public TrainingLoop.End run(Interruption interruption) {
    RunFolder folder = RunFolder.check(settings.out(), settings.resume());
    try (Device device = Device.open()) {
      if (settings.target().hasSae()) {
        TrainSaeRecipe.requireFloat32(device.type());
      }
      ranks = parallel.ranks().on(device);
      Inputs inputs;
      Plan plan;
      try (ModelFolder files = ModelFolder.open(settings.model(), console::warn)) {
        inputs = read(device, files);
        plan = plan(device, inputs);
        inputs.model.read(device, files); // last: whatever lacks memory has failed before
      }
      TrainingLoop.End end = train(device, folder, inputs, plan, interruption);
      ranks.detach();
      return end;
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
    if (parallel.shardSae() && settings.target().hasSae()) {
      throw new InputException(
          "--shard-sae: only frozen SAEs can be sharded, but --train %s trains them"
              .formatted(settings.train()));
    }
    Saes saes = Saes.load(device, settings.saes(), config, console, ranks, parallel.shardSae());
    int positions = Math.max(rows.context(), evalRows.map(TokenRows::context).orElse(0));
    LanguageModel model =
        LanguageModel.allocate(
            device,
            config,
            positions,
            Adaptation.ranks(config, settings, console::warn),
            ranks,
            console::warn);
    Adaptation adaptation = Adaptation.begin(device, model, saes.byLayer(), settings);
    return new Inputs(model, saes, adaptation, rows, evalRows);
  }

  private Plan plan(Device device, Inputs in) {
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
            in.adaptation.student(),
            loss(),
            new BatchSource(in.rows, settings.order().over(in.rows.count(), settings.seed())),
            batch,
            microBatches(),
            settings.seed());
    Optional<Evaluator> evaluator =
        in.evalRows.map(
            data ->
                new Evaluator(
                    device,
                    ranks,
                    in.model,
                    in.saes.byLayer(),
                    Optional.of(in.adaptation.measured()),
                    data,
                    MetricSet.BASIC));
    Optional<SaeFit> fit =
        evaluator.isPresent() || settings.resume()
            ? Optional.empty()
            : Optional.of(new SaeFit(device, in.model, in.saes, in.rows));
    // Training and evaluation never run at once: they share their memory.
    long bytes = objective.tape().bytes();
    bytes = Math.max(bytes, evaluator.map(Evaluator::bytes).orElse(0L));
    bytes = Math.max(bytes, fit.map(SaeFit::bytes).orElse(0L));
    device.holder("activations of a step");
    MemorySegment workspace = device.allocate(bytes);
    device.holder("optimizer state");
    AdamW optimizer =
        AdamW.create(
            device,
            in.adaptation.parameters(),
            AdamW.Hyperparameters.of(settings.weightDecay(), settings.clip()));
    return new Plan(objective, evaluator, fit, workspace, optimizer);
  }

  private TrainingLoop.End train(
      Device device, RunFolder folder, Inputs in, Plan plan, Interruption interruption) {
    plan.fit.ifPresent(f -> SaeFit.check(in.saes, f.measure(plan.workspace), console));
    plan.objective.tape().bind(plan.workspace);
    plan.evaluator.ifPresent(e -> e.bind(plan.workspace).stopWhen(interruption::isRequested));

    int steps =
        settings.steps().orElseGet(() -> in.rows.onePass(settings.batch() * microBatches()));
    Checkpoints checkpoints =
        new Checkpoints(folder.checkpoints(), RunFolder.fingerprint(settings, steps, ranks.size()));
    Optional<Checkpoints.Saved> saved = settings.resume() ? checkpoints.latest() : Optional.empty();
    long[] saeBytes =
        in.saes.bytes(ranks); // ranks meet here: if one refuses its input, none begins
    TrainingRun run =
        new TrainingRun(
            device,
            "adapt",
            console,
            settings.objective(),
            steps,
            plan.evaluator.map(e -> step -> evaluate(e, in.saes)),
            profile.map(file -> ProfileReport.profiler(device, ranks, file, console)));
    interruption.listen();
    try (MetricsLog metrics = ranks.isFirst() ? new MetricsLog(folder.metrics()) : null) {
      if (ranks.isFirst()) {
        folder.begin("adapt", SettingsJson.of(settings), settings.seed(), saeBytes);
      }
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
                  TrainingRun.evaluateEvery(
                      settings.evalData().map(data -> settings.evalEvery()), steps),
                  settings.checkpointEvery()),
              plan.objective,
              plan.optimizer,
              Optional.ofNullable(metrics),
              checkpoints,
              interruption);
      TrainingLoop.End end = run.train(loop, saved, checkpoints, folder.path());
      if (end == TrainingLoop.End.DONE && ranks.isFirst()) {
        in.adaptation.save(
            device,
            folder.path(),
            settings.model(),
            in.rows.context(),
            in.rows.beginWith(in.model.config().bos()));
      }
      return end;
    }
  }

  private ObjectNode evaluate(Evaluator evaluator, Saes saes) {
    boolean first = evaluator.isFirst();
    Evaluation evaluation = evaluator.evaluate(done -> {});
    evaluation.warn(console);
    if (first) {
      SaeFit.check(saes, evaluation.saes(), console);
    }
    return evaluation.toJson();
  }

  private AdaptObjective.Loss loss() {
    return AdaptObjective.Loss.valueOf(settings.objective().toUpperCase(Locale.ROOT));
  }

  /** Micro-batches of a step, of all ranks together. */
  private int microBatches() {
    return Math.multiplyExact(settings.accumulate(), ranks.size());
  }
}
