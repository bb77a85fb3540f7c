package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.TokenCache;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.device.ElementType;
import espalier.distributed.Ranks;
import espalier.format.InputException;
import espalier.format.ModelFolder;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.sae.Course;
import espalier.sae.SaeWriter;
import espalier.sae.TrainableSae;
import espalier.tensor.Tensor;
import espalier.train.AdamW;
import espalier.train.Checkpoints;
import espalier.train.Interruption;
import espalier.train.MetricsLog;
import espalier.train.TrainingLoop;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.function.LongFunction;

/**
 * {@code espalier train-sae}: trains SAEs on a model's activations, on their own error or through
 * the rest of the model.
 */
public final class TrainSaeRecipe {

  private final TrainSaeSettings settings;
  private final SaeLoss loss;
  private final Console console;
  private Optional<Path> profile = Optional.empty();
  private final List<HeldOutWatch> watches;
  private final Parallel parallel;
  private Ranks ranks;

  public TrainSaeRecipe(TrainSaeSettings settings, Console console) {
    this(settings, console, Optional.empty());
  }

  /** All ranks run the recipe; rank 0 alone writes. */
  public TrainSaeRecipe(TrainSaeSettings settings, Console console, Parallel parallel) {
    this(settings, console, Optional.empty(), parallel);
  }

  /**
   * @param watch how the one SAE is evaluated, instead of evaluations on {@code evalData}
   */
  public TrainSaeRecipe(TrainSaeSettings settings, Console console, Optional<HeldOutWatch> watch) {
    this(settings, console, watch, Parallel.alone());
  }

  private TrainSaeRecipe(
      TrainSaeSettings settings, Console console, Optional<HeldOutWatch> watch, Parallel parallel) {
    if (watch.isPresent() && settings.layers().size() > 1) {
      throw new IllegalArgumentException("a watch of one SAE for " + settings.layers());
    }
    this.settings = settings;
    loss = SaeLoss.parse(settings.objective());
    watches = watch.map(List::of).orElseGet(() -> watches(settings));
    this.parallel = parallel;
    ranks = parallel.ranks();
    this.console = ranks.isFirst() ? console : Console.silent();
    if (settings.activationCache().isPresent() && ranks.size() > 1) {
      throw new InputException(
          "--activation-cache: works with one process only, but there are %d ranks"
              .formatted(ranks.size()));
    }
  }

  private static List<HeldOutWatch> watches(TrainSaeSettings settings) {
    return settings.evalData().stream()
        .flatMap(
            data ->
                settings.layers().stream()
                    .map(
                        layer ->
                            new HeldOutWatch(data, layer, settings.evalEvery(), Optional.empty())))
        .toList();
  }

  /** What the run works on, read and checked. */
  private record Inputs(
      LanguageModel model, TokenRows rows, Optional<TokenRows> evalRows, Optional<Saes> initial) {}

  /** Measures a few steps kernel by kernel and writes their time line to a file. */
  public TrainSaeRecipe profile(Optional<Path> file) {
    profile = file;
    return this;
  }

  /** Refuses to train SAEs in another type than float32: their kernels read float32 weights. */
  public static void requireFloat32(ElementType type) {
    if (type != ElementType.F32) {
      throw new InputException("--dtype: SAEs can be trained in f32 only");
    }
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
      requireFloat32(device.type());
      ranks = parallel.ranks().on(device);
      Inputs inputs;
      try (ModelFolder files = ModelFolder.open(settings.model(), console::warn)) {
        inputs = read(device, files);
      }
      TrainingLoop.End end;
      try (ActivationCache cache = settings.activationCache().isEmpty() ? null : cache(inputs)) {
        end = train(device, folder, inputs, Optional.ofNullable(cache), interruption);
      }
      ranks.detach();
      return end;
    }
  }

  private ActivationCache cache(Inputs in) {
    return ActivationCache.open(
        settings.activationCache().orElseThrow(),
        settings.model(),
        settings.data(),
        settings.layers(),
        in.rows.count(),
        in.rows.context(),
        in.model.config().hiddenSize());
  }

  private Inputs read(Device device, ModelFolder files) {
    int blocks = files.config().numLayers();
    for (int layer : settings.layers()) {
      if (layer >= blocks) {
        throw new InputException(
            "--layer %d: the model has layers 0 to %d".formatted(layer, blocks - 1));
      }
      if (loss == SaeLoss.E2E_DOWNSTREAM && layer >= blocks - 2) {
        throw new InputException(
            "--objective e2e+ds: needs at least two blocks behind layer %d".formatted(layer));
      }
    }
    TokenCache cache = TokenCache.of(System.getenv(), console::warn);
    TokenRows rows =
        TokenRows.read(
            settings.data(), files.config(), settings.model(), settings.context(), cache);
    Optional<TokenRows> evalRows =
        watches.stream()
            .findFirst()
            .map(watch -> List.of(watch.data()))
            .map(f -> TokenRows.read(f, files.config(), settings.model(), rows.context(), cache));
    Optional<Saes> initial = Optional.empty();
    if (!settings.initial().isEmpty()) {
      SaeSpec.check(settings.initial(), blocks);
      initial =
          Optional.of(Saes.load(device, settings.initial(), files.config(), console, ranks, false));
    }
    int positions = Math.max(rows.context(), evalRows.map(TokenRows::context).orElse(0));
    LanguageModel model = LanguageModel.load(device, files, positions, ranks, console::warn);
    return new Inputs(model, rows, evalRows, initial);
  }

  private TrainingLoop.End train(
      Device device,
      RunFolder folder,
      Inputs in,
      Optional<ActivationCache> cache,
      Interruption interruption) {
    TokenBatch batch = batch(device, in);
    BatchSource source =
        new BatchSource(in.rows, RowOrdering.SHUFFLED.over(in.rows.count(), settings.seed()));
    SaeStart start = new SaeStart(settings, device, in.model, source, batch);
    SaeStart.Started started = in.initial.map(start::from).orElseGet(start::fresh);
    SortedMap<Integer, TrainableSae> saes = started.saes();
    SaeObjective objective =
        new SaeObjective(
            device,
            in.model,
            saes,
            loss,
            settings.weights(),
            source,
            batch,
            settings.accumulate(),
            ranks,
            cache);
    objective.tape().bind(device);
    int rowsAStep = settings.batch() * Math.multiplyExact(settings.accumulate(), ranks.size());
    int steps = settings.steps().orElseGet(() -> in.rows.onePass(rowsAStep));
    List<Tensor> state = saes.values().stream().flatMap(sae -> sae.state().stream()).toList();
    Checkpoints checkpoints =
        new Checkpoints(
            folder.checkpoints(), RunFolder.fingerprint(settings, steps, ranks.size()), state);
    Optional<Checkpoints.Saved> saved = settings.resume() ? checkpoints.latest() : Optional.empty();
    TrainingRun run =
        new TrainingRun(
            device,
            "train-sae " + (in.initial.isEmpty() ? settings.shape().arch() + " " : "") + loss,
            console,
            loss.hasKl() ? "kl" : "fvu",
            steps,
            evaluation(device, in, saes, interruption),
            profile.map(file -> ProfileReport.profiler(device, ranks, file, console)));
    ranks.gather(); // ranks meet here: if one refuses its input, none begins
    interruption.listen();
    try (MetricsLog metrics = ranks.isFirst() ? new MetricsLog(folder.metrics()) : null) {
      if (ranks.isFirst()) {
        folder.begin("train-sae", SettingsJson.of(settings), settings.seed(), ranks.size());
      }
      TrainingLoop loop =
          new TrainingLoop(
              device,
              ranks,
              loopSettings(steps),
              objective,
              AdamW.create(
                  device, started.parameters(), AdamW.Hyperparameters.of(0, settings.clip())),
              Optional.ofNullable(metrics),
              checkpoints,
              interruption);
      TrainingLoop.End end = run.train(loop, saved, checkpoints, folder.path());
      if (end == TrainingLoop.End.DONE && ranks.isFirst()) {
        saes.forEach((layer, sae) -> write(device, folder, in, layer, sae));
      }
      return end;
    }
  }

  private TokenBatch batch(Device device, Inputs in) {
    TokenBatch batch =
        new TokenBatch(
            device,
            settings.batch(),
            in.rows.context(),
            in.model.config().specialIds(),
            settings.accumulate());
    if (batch.tokens() * settings.accumulate() >= Course.MOST_ROWS) {
      throw new InputException(
          "--batch, --accumulate: a rank's tokens of a step must be fewer than "
              + Course.MOST_ROWS);
    }
    return batch;
  }

  private TrainingLoop.Settings loopSettings(int steps) {
    return new TrainingLoop.Settings(
        steps,
        settings.accumulate(),
        parallel.order(),
        settings.lr(),
        settings.schedule(),
        settings.warmup(),
        TrainingRun.evaluateEvery(watches.stream().findFirst().map(HeldOutWatch::every), steps),
        settings.checkpointEvery());
  }

  /** One SAE is written to the run's folder itself; of several, each to a folder in it. */
  private void write(Device device, RunFolder folder, Inputs in, int layer, TrainableSae sae) {
    Path path = folder.path();
    if (settings.layers().size() > 1) {
      path = path.resolve("layer-" + layer);
    }
    SaeWriter.write(device, sae, sae.folded(device), path, origin(in, layer));
  }

  private SaeWriter.Origin origin(Inputs in, int layer) {
    return new SaeWriter.Origin(
        layer,
        ModelName.ofSae(settings.model()),
        in.rows.context(),
        in.rows.beginWith(in.model.config().bos()));
  }

  /**
   * Evaluates each SAE spliced in alone.
   *
   * @return the fields of the one SAE, or of several under {@code alone} by layer; empty where
   *     nothing is evaluated
   */
  private Optional<LongFunction<ObjectNode>> evaluation(
      Device device, Inputs in, SortedMap<Integer, TrainableSae> saes, Interruption interruption) {
    SortedMap<Integer, HeldOutEvaluator> evaluators = new TreeMap<>();
    for (HeldOutWatch watch : watches) {
      evaluators.put(
          watch.layer(),
          new HeldOutEvaluator(
              device,
              ranks,
              in.model,
              in.evalRows.orElseThrow(),
              watch.layer(),
              saes.get(watch.layer()),
              watch.snapshots().filter(to -> ranks.isFirst()),
              origin(in, watch.layer()),
              interruption::isRequested));
    }
    return switch (evaluators.size()) {
      case 0 -> Optional.empty();
      case 1 -> Optional.of(evaluators.firstEntry().getValue()::measure);
      default -> Optional.of(step -> measure(evaluators, step));
    };
  }

  private static ObjectNode measure(SortedMap<Integer, HeldOutEvaluator> evaluators, long step) {
    ObjectNode all = JsonNodeFactory.instance.objectNode();
    ObjectNode alone = all.putObject("alone");
    evaluators.forEach((layer, one) -> alone.set(String.valueOf(layer), one.measure(step)));
    return all;
  }
}
