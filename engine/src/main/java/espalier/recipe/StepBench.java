package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
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
import espalier.train.AdamW;
import espalier.train.Checkpoints;
import espalier.train.GradientSum;
import espalier.train.Interruption;
import espalier.train.Schedule;
import espalier.train.StepProfiler;
import espalier.train.TrainingLoop;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.SortedSet;
import java.util.SplittableRandom;
import java.util.TreeMap;

/**
 * The very step of {@code espalier adapt} on a model, an SAE and tokens of random values: how long
 * it takes, how much memory, and what share of the device's rate its needed work reaches.
 */
public final class StepBench {

  private static final long SEED = 20240607;

  private static final int GEMM_REPEATS = 9;

  private final BenchSettings settings;
  private final Optional<Path> profile;
  private final Console console;

  /**
   * @param profile file for the time line of steps after the measured ones: see {@link
   *     ProfileReport}
   */
  public StepBench(BenchSettings settings, Optional<Path> profile, Console console) {
    this.settings = settings;
    this.profile = profile;
    this.console = console;
  }

  public ObjectNode run() {
    ModelConfig config = BenchShape.of(settings.shape());
    int saeLayer = settings.saeLayer().orElse((config.numLayers() - 1) / 2);
    if (saeLayer >= config.numLayers()) {
      throw new InputException(
          "--sae-layer %d: the shape has layers 0 to %d"
              .formatted(saeLayer, config.numLayers() - 1));
    }
    try (Device device = Device.open()) {
      return measure(device, config, saeLayer);
    }
  }

  private ObjectNode measure(Device device, ModelConfig config, int saeLayer) {
    device.holder("weights");
    LanguageModel model = LanguageModel.random(device, config, settings.context(), SEED);
    Sae sae = RandomSae.of(device, config.hiddenSize(), settings.saeWidth(), SEED + (1L << 32));
    SortedSet<Integer> adapted = adapted(saeLayer, model);
    device.holder("adapter and optimizer");
    LoraAdapter lora =
        LoraAdapter.initialise(
            device,
            model,
            LoraSettings.uniform(
                AdapterChoice.paths("both", adapted, model),
                settings.rank(),
                2.0 * settings.rank(),
                0),
            List.of(),
            new SplittableRandom(SEED));
    AdamW optimizer = AdamW.create(device, lora.parameters(), AdamW.Hyperparameters.of(0, 1));
    device.holder("activations");
    TokenRows rows =
        TokenRows.random(config.vocabSize(), 2 * settings.batch(), settings.context(), SEED);
    TokenBatch batch =
        new TokenBatch(device, settings.batch(), settings.context(), config.specialIds());
    BatchSource source = new BatchSource(rows, RowOrder.sequential(rows.count()));
    AdaptObjective objective =
        new AdaptObjective(
            device,
            model,
            new Streams.Variant(new TreeMap<>(Map.of(saeLayer, sae)), lora.adapters()),
            AdaptObjective.Loss.KL,
            source,
            batch,
            1,
            SEED);
    Tape below = new Tape(device);
    Var x = streamBelow(below, model, batch, saeLayer);
    MemorySegment workspace = device.allocate(Math.max(objective.tape().bytes(), below.bytes()));
    source.load(0, batch);
    below.bind(workspace).forward();
    RandomSae.fit(device, sae, x.value(), settings.l0());
    objective.tape().bind(workspace);

    double[] milliseconds = new double[settings.steps()];
    double kl = 0;
    String queueing;
    try (Interruption interruption = new Interruption()) {
      TrainingLoop loop = loop(device, objective, optimizer, interruption);
      for (int i = 0; i < StepProfiler.WARM + milliseconds.length; i++) {
        ObjectNode line = loop.trainOneStep();
        if (i >= StepProfiler.WARM) {
          milliseconds[i - StepProfiler.WARM] = line.get("step_ms").doubleValue();
        }
        kl = line.get("kl").doubleValue();
      }
      queueing = loop.queueing();
      if (profile.isPresent()) {
        loop.profile(ProfileReport.profiler(device, profile.get(), console));
        for (int i = 0; i < StepProfiler.WARM + StepProfiler.STEPS; i++) {
          loop.trainOneStep();
        }
      }
    }
    long bytes = device.allocatedBytes(); // before what measuring the rate takes
    StepFlops flops =
        new StepFlops(
            model,
            settings.batch(),
            settings.context(),
            saeLayer,
            settings.saeWidth(),
            settings.l0(),
            adapted,
            settings.rank());
    return result(device, config, saeLayer, milliseconds, kl, queueing, bytes, flops.total());
  }

  private SortedSet<Integer> adapted(int saeLayer, LanguageModel model) {
    SaeSpec at = new SaeSpec(saeLayer, Path.of("random"));
    return AdapterChoice.layers(settings.layers(), List.of(at), model.layers());
  }

  /** The residual stream that the SAE reads. */
  private static Var streamBelow(Tape tape, LanguageModel model, TokenBatch batch, int saeLayer) {
    Var x = model.embed(tape, batch);
    for (int layer = 0; layer <= saeLayer; layer++) {
      x = model.block(tape, layer, x, batch, Adapters.NONE);
    }
    return tape.output(x);
  }

  private TrainingLoop loop(
      Device device, AdaptObjective objective, AdamW optimizer, Interruption interruption) {
    return new TrainingLoop(
        device,
        Ranks.alone(),
        new TrainingLoop.Settings(
            StepProfiler.WARM + settings.steps(),
            1,
            GradientSum.Order.FIXED,
            1e-4,
            Schedule.CONSTANT,
            0,
            0,
            0),
        objective,
        optimizer,
        Optional.empty(),
        new Checkpoints(Path.of("none"), "nothing is written"),
        interruption);
  }

  private ObjectNode result(
      Device device,
      ModelConfig config,
      int saeLayer,
      double[] milliseconds,
      double kl,
      String queueing,
      long bytes,
      double flops) {
    double[] sorted = milliseconds.clone();
    Arrays.sort(sorted);
    double step = sorted[sorted.length / 2];
    long tokens = (long) settings.batch() * settings.context();
    double rate = new Rates(device).gemm(GEMM_REPEATS);
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("measured", "adapt step");
    json.put("side", "espalier");
    json.put("shape", settings.shape());
    json.put("device", device.describe());
    json.put("dtype", device.type().name().toLowerCase(Locale.ROOT));
    json.put("context", settings.context());
    json.put("batch", settings.batch());
    json.put("sae_width", settings.saeWidth());
    json.put("sae_layer", saeLayer);
    json.put("l0", settings.l0());
    json.put("rank", settings.rank());
    json.put("layers", settings.layers());
    json.put("steps", settings.steps());
    json.put("step_ms", step);
    json.put("fastest_ms", sorted[0]);
    json.put("slowest_ms", sorted[sorted.length - 1]);
    json.put("tokens_per_second", tokens / step * 1e3);
    json.put("peak_bytes", bytes);
    json.put("needed_tflop", flops * 1e-12);
    json.put("gemm_edge", Rates.edge());
    json.put("gemm_tflops", rate * 1e-12);
    json.put("share_of_gemm_rate", flops / (step * 1e-3) / rate);
    json.put("last_kl", kl);
    json.put("queueing", queueing);
    json.put("revision", Versions.revision());
    return json;
  }
}
