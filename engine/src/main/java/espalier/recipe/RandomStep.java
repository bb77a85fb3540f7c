package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.ParameterSet;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.data.RowOrder;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.lora.LoraAdapter;
import espalier.lora.LoraSettings;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.SaeDesign;
import espalier.sae.TrainableSae;
import espalier.train.AdamW;
import espalier.train.Checkpoints;
import espalier.train.GradientSum;
import espalier.train.Interruption;
import espalier.train.Objective;
import espalier.train.Schedule;
import espalier.train.StepProfiler;
import espalier.train.TrainingLoop;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SortedSet;
import java.util.SplittableRandom;
import java.util.TreeMap;

/**
 * A training step on random weights and tokens, which are a function of the settings, ready to be
 * run again and again. It is the step of {@code adapt}, or that of {@code train-sae} end to end,
 * with their own objectives and {@link TrainingLoop}. It lives as long as its device.
 */
public final class RandomStep {

  private static final long SEED = 20240607;
  private static final double LEARNING_RATE = 1e-4;

  /** Steps of the run; any number does for a constant learning rate. */
  private static final int STEPS = 1_000_000;

  private final Device device;
  private final BenchSettings settings;
  private final int saeLayer;
  private final LanguageModel model;
  private final Sae sae;
  private final SortedSet<Integer> adapted;
  private final LoraSettings lora;
  private final TokenBatch batch;
  private final BatchSource source;
  private TrainingLoop loop;

  /**
   * @param updated whether weights have room for an adapter
   */
  private RandomStep(Device device, BenchSettings settings, boolean updated) {
    this.device = device;
    this.settings = settings;
    ModelConfig config = BenchShape.of(settings.shape());
    saeLayer = settings.saeLayer().orElse((config.numLayers() - 1) / 2);
    if (saeLayer >= config.numLayers()) {
      throw new InputException(
          "--sae-layer %d: the shape has layers 0 to %d"
              .formatted(saeLayer, config.numLayers() - 1));
    }
    device.holder("weights");
    adapted =
        AdapterChoice.layers(
            settings.layers(),
            List.of(new SaeSpec(saeLayer, Path.of("random"))),
            config.numLayers());
    lora =
        LoraSettings.uniform(
            AdapterChoice.paths("both", adapted, config),
            settings.rank(),
            2.0 * settings.rank(),
            0);
    model =
        LanguageModel.random(
            device, config, settings.context(), SEED, updated ? lora.ranks() : Map.of());
    sae = RandomSae.of(device, config.hiddenSize(), settings.saeWidth(), SEED + (1L << 32));
    TokenRows rows =
        TokenRows.random(config.vocabSize(), 2 * settings.batch(), settings.context(), SEED);
    batch = new TokenBatch(device, settings.batch(), settings.context(), config.specialIds());
    source = new BatchSource(rows, RowOrder.sequential(rows.count()));
  }

  /** The step of {@code adapt}: the SAE is frozen, adapters learn. */
  public static RandomStep adapt(Device device, BenchSettings settings) {
    RandomStep step = new RandomStep(device, settings, true);
    step.prepareAdapt();
    return step;
  }

  /**
   * The step of {@code train-sae --objective e2e}, which begins with the same SAE. Only the SAE
   * learns; the settings' rank and adapted layers are not used.
   *
   * @param device in float32
   */
  public static RandomStep endToEnd(Device device, BenchSettings settings) {
    TrainSaeRecipe.requireFloat32(device.type());
    RandomStep step = new RandomStep(device, settings, false);
    step.prepareEndToEnd();
    return step;
  }

  private void prepareAdapt() {
    device.holder("adapter and optimizer");
    LoraAdapter adapter =
        LoraAdapter.initialise(device, model, lora, List.of(), new SplittableRandom(SEED));
    AdamW optimizer = AdamW.create(device, adapter.parameters(), AdamW.Hyperparameters.of(0, 1));
    device.holder("activations");
    AdaptObjective objective =
        new AdaptObjective(
            device,
            model,
            new Streams.Variant(new TreeMap<>(Map.of(saeLayer, sae)), adapter.adapters()),
            AdaptObjective.Loss.KL,
            source,
            batch,
            1,
            SEED);
    Tape below = new Tape(device);
    Var x = streamBelow(below);
    MemorySegment workspace = device.allocate(Math.max(objective.tape().bytes(), below.bytes()));
    fit(below.bind(workspace), x);
    objective.tape().bind(workspace);
    loop = loop(objective, optimizer);
  }

  private void prepareEndToEnd() {
    Tape below = new Tape(device);
    Var x = streamBelow(below);
    fit(below.bind(device), x);
    SaeDesign design =
        TrainableSae.designOf(
            sae,
            settings.l0(),
            (float) TrainSaeSettings.DEFAULT_BANDWIDTH,
            TrainSaeSettings.DEFAULT_DEAD_AFTER);
    ParameterSet parameters =
        new ParameterSet(device, TrainableSae.shapes("sae.", design, sae.inputs()));
    TrainableSae trained = TrainableSae.from(device, parameters, "sae.", design, sae, 1);
    SaeObjective objective =
        new SaeObjective(
            device,
            model,
            new TreeMap<>(Map.of(saeLayer, trained)),
            SaeLoss.E2E,
            SaeLossWeights.DEFAULTS,
            source,
            batch,
            1,
            Ranks.alone(),
            Optional.empty());
    objective.tape().bind(device);
    loop = loop(objective, AdamW.create(device, parameters, AdamW.Hyperparameters.of(0, 1)));
  }

  /** The residual stream that the SAE reads. */
  private Var streamBelow(Tape tape) {
    Var x = model.embed(tape, batch);
    for (int layer = 0; layer <= saeLayer; layer++) {
      x = model.block(tape, layer, x, batch, Adapters.NONE);
    }
    return tape.output(x);
  }

  private void fit(Tape below, Var x) {
    source.load(0, batch);
    below.forward();
    RandomSae.fit(device, sae, x.value(), settings.l0());
  }

  private TrainingLoop loop(Objective objective, AdamW optimizer) {
    return new TrainingLoop(
        device,
        Ranks.alone(),
        new TrainingLoop.Settings(
            STEPS, 1, GradientSum.Order.FIXED, LEARNING_RATE, Schedule.CONSTANT, 0, 0, 0),
        objective,
        optimizer,
        Optional.empty(),
        new Checkpoints(Path.of("none"), "nothing is written"),
        new Interruption()); // which does not listen: Ctrl-C just ends it
  }

  /** One update, and its line of metrics: {@code kl} and {@code step_ms} among others. */
  public ObjectNode run() {
    return loop.trainOneStep();
  }

  /** From now on: see {@link TrainingLoop#profile}. */
  void profile(StepProfiler profiler) {
    loop.profile(profiler);
  }

  /** How a step's work is queued: see {@link TrainingLoop#queueing}. */
  String queueing() {
    return loop.queueing();
  }

  int saeLayer() {
    return saeLayer;
  }

  /** The operations that a step of {@code adapt} needs. */
  StepFlops adaptFlops() {
    return new StepFlops(
        model,
        settings.batch(),
        settings.context(),
        saeLayer,
        settings.saeWidth(),
        settings.l0(),
        adapted,
        settings.rank());
  }
}
