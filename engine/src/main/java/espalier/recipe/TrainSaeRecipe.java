package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.data.TokenCache;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.distributed.Ranks;
import espalier.format.InputException;
import espalier.format.ModelFolder;
import espalier.format.SaeWeights.Activation;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.SaeWriter;
import espalier.sae.TrainableSae;
import espalier.tensor.Tensor;
import espalier.train.AdamW;
import espalier.train.Checkpoints;
import espalier.train.GradientSum;
import espalier.train.Interruption;
import espalier.train.MetricsLog;
import espalier.train.TrainingLoop;
import java.nio.file.Path;
import java.util.Optional;
import java.util.SplittableRandom;

/**
 * {@code espalier train-sae}: trains an SAE on a model's activations, on its own error or end to
 * end.
 */
public final class TrainSaeRecipe {

  private final TrainSaeSettings settings;
  private final Console console;
  private final Optional<Watch> watch;

  /** Measures the SAE as it is trained. */
  public interface Watch {
    /** Steps between measurements. */
    int every();

    /** Fields for the metrics after a step; {@code sae} is folded and frozen. */
    ObjectNode measure(
        Device device, LanguageModel model, Path modelFolder, int context, Sae sae, long step);
  }

  public TrainSaeRecipe(TrainSaeSettings settings, Console console) {
    this(settings, console, Optional.empty());
  }

  public TrainSaeRecipe(TrainSaeSettings settings, Console console, Optional<Watch> watch) {
    this.settings = settings;
    this.console = console;
    this.watch = watch;
  }

  public TrainingLoop.End run() {
    RunFolder folder = RunFolder.check(settings.out(), settings.resume());
    try (Device device = Device.open()) {
      LanguageModel model;
      TokenRows rows;
      try (ModelFolder files = ModelFolder.open(settings.model())) {
        if (settings.layer() >= files.config().numLayers()) {
          throw new InputException(
              "--layer %d: the model has layers 0 to %d"
                  .formatted(settings.layer(), files.config().numLayers() - 1));
        }
        rows =
            TokenRows.read(
                settings.data(),
                files.config(),
                settings.model(),
                settings.context(),
                TokenCache.of(System.getenv(), console::warn));
        model = LanguageModel.load(device, files, rows.context());
      }
      return train(device, folder, model, rows);
    }
  }

  private TrainingLoop.End train(
      Device device, RunFolder folder, LanguageModel model, TokenRows rows) {
    TokenBatch batch =
        new TokenBatch(device, settings.batch(), rows.context(), model.config().specialIds());
    BatchSource source =
        new BatchSource(rows, RowOrdering.SHUFFLED.over(rows.count(), settings.seed()));
    TrainableSae sae =
        TrainableSae.create(
            device,
            kind(),
            settings.latents(),
            settings.k(),
            sample(device, model, source, batch),
            new SplittableRandom(settings.seed()));
    SaeObjective objective =
        new SaeObjective(
            device,
            model,
            settings.layer(),
            sae,
            new SaeObjective.Settings(
                settings.objective().equals("mse") ? SaeObjective.Loss.MSE : SaeObjective.Loss.E2E,
                settings.k(),
                settings.l1(),
                settings.bandwidth()),
            source,
            batch,
            1);
    objective.tape().bind(device);
    int steps = settings.steps().orElse(Math.max(1, rows.count() / settings.batch()));
    Checkpoints checkpoints =
        new Checkpoints(folder.checkpoints(), RunFolder.fingerprint(settings, steps));
    Optional<Checkpoints.Saved> saved = settings.resume() ? checkpoints.latest() : Optional.empty();
    folder.begin("train-sae", SettingsJson.of(settings), settings.seed());
    Sae folded = sae.folded(device);
    try (MetricsLog metrics = new MetricsLog(folder.metrics());
        Interruption interruption = new Interruption()) {
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
                  watch.map(Watch::every).orElse(0),
                  settings.checkpointEvery()),
              objective,
              AdamW.create(device, sae.parameters(), AdamW.Hyperparameters.of(0, 1)),
              Optional.of(metrics),
              checkpoints,
              interruption);
      TrainingRun run =
          new TrainingRun(
              device,
              "train-sae " + settings.arch() + " " + settings.objective(),
              console,
              settings.objective().equals("mse") ? "fvu" : "kl",
              steps,
              watch.map(
                  w ->
                      step -> {
                        sae.foldInto(device, folded);
                        return w.measure(
                            device, model, settings.model(), rows.context(), folded, step);
                      }));
      TrainingLoop.End end = run.train(loop, saved, checkpoints, folder.path());
      if (end == TrainingLoop.End.DONE) {
        sae.foldInto(device, folded);
        SaeWriter.write(
            device,
            folded,
            folder.path(),
            settings.layer(),
            settings.model().getFileName().toString(),
            rows.context(),
            model.config().bos().isPresent());
      }
      return end;
    }
  }

  private Activation kind() {
    return switch (settings.arch()) {
      case "topk" -> Activation.TOPK;
      case "jumprelu" -> Activation.JUMPRELU;
      case "standard" -> Activation.RELU;
      default -> throw new IllegalStateException(settings.arch());
    };
  }

  /** Activations of the first batch, special positions left out. */
  private Tensor sample(Device device, LanguageModel model, BatchSource source, TokenBatch batch) {
    source.load(0, batch);
    Tape tape = new Tape(device);
    Var x = model.embed(tape, batch);
    for (int layer = 0; layer <= settings.layer(); layer++) {
      x = model.block(tape, layer, x, batch, Adapters.NONE);
    }
    tape.output(x);
    tape.bind(device);
    tape.forward();
    Tensor all = x.value();
    Tensor sample = Tensor.allocate(device, all.rows(), all.cols());
    long rows = 0;
    for (long t = 0; t < all.rows(); t++) {
      if (!batch.isSpecial(t)) {
        Transfer.copy(all.rows(t, 1).bytes(), sample.rows(rows++, 1).bytes());
      }
    }
    return sample.rows(0, rows);
  }
}
