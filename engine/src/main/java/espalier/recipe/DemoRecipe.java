package espalier.recipe;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.DeviceChoice;
import espalier.train.Schedule;
import espalier.train.TrainingLoop;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * {@code espalier demo}: the whole story on a model small enough for any machine. A byte-level
 * language model learns Java source text; SAEs learn its middle layer; one is spliced in, and
 * adapters win back what it costs. For comparison an SAE is trained end to end on the same data.
 */
public final class DemoRecipe {

  private static final int LAYER = 2;
  private static final int LATENTS = 1024;
  private static final int ACTIVE = 16;

  private final DemoSettings settings;
  private final Console console;
  private final Path out;
  private final Path train;
  private final Path eval;
  private final ArrayNode stages = JsonNodeFactory.instance.arrayNode();

  public DemoRecipe(DemoSettings settings, Console console) {
    this.settings = settings;
    this.console = console;
    out = settings.out();
    train = DemoModel.train(out.resolve("data"));
    eval = DemoModel.eval(out.resolve("data"));
  }

  /** Thrown through the stages when the user stops the demo. */
  private static final class Interrupted extends RuntimeException {
    private static final long serialVersionUID = 1L;
  }

  /**
   * What {@code results.json} holds: rows of the table, curves of the plot; empty if interrupted.
   */
  public Optional<ObjectNode> run() {
    TrainSaeRecipe.requireFloat32(DeviceChoice.current().type()); // before it has pretrained
    DemoFolder.clear(out);
    new RunFolder(out).begin("demo", SettingsJson.of(settings), settings.seed());
    try {
      return Optional.of(tell());
    } catch (Interrupted stopped) {
      console.info("demo: stopped; the next start begins anew");
      return Optional.empty();
    }
  }

  private ObjectNode tell() {
    DemoModel.writeData(out.resolve("data"));
    stage("pretrain", this::pretrain);
    stage("train SAE (TopK)", () -> trainSae("topk", "mse", steps(150), Optional.empty()));
    stage("train SAE (JumpReLU)", () -> trainSae("jumprelu", "mse", steps(150), Optional.empty()));
    stage("adapt around the TopK SAE", this::adapt);
    HeldOutWatch watch =
        new HeldOutWatch(eval, LAYER, Math.max(1, steps(120) / 8), Optional.empty());
    stage("train SAE end to end", () -> trainSae("topk", "e2e", steps(120), Optional.of(watch)));
    ObjectNode results = new DemoResults(out, LAYER, console).collect(stages);
    new RunFolder(out).write("results.json", results);
    copy(out.resolve("adapter/metrics.jsonl"), out.resolve("metrics.jsonl"));
    return results;
  }

  private int steps(int usual) {
    return Math.max(2, (int) Math.round(usual * settings.scale()));
  }

  private void stage(String name, Runnable work) {
    long start = System.nanoTime();
    work.run();
    stages.addObject().put("name", name).put("seconds", (System.nanoTime() - start) * 1e-9);
  }

  private void pretrain() {
    done(
        new PretrainRecipe(
                DemoModel.pretraining(
                    out.resolve("data"), model(), steps(DemoModel.STEPS), settings.seed(), false),
                console)
            .run());
  }

  private void trainSae(String arch, String objective, int steps, Optional<HeldOutWatch> watch) {
    done(
        new TrainSaeRecipe(
                new TrainSaeSettings(
                    model(),
                    LAYER,
                    arch,
                    objective,
                    List.of(train),
                    out.resolve("sae-" + (objective.equals("e2e") ? "e2e" : arch)),
                    LATENTS,
                    ACTIVE,
                    0,
                    0.2,
                    2e-3,
                    Schedule.LINEAR,
                    Math.min(20, steps / 4),
                    DemoModel.BATCH,
                    DemoModel.CONTEXT,
                    OptionalInt.of(steps),
                    settings.seed(),
                    false,
                    steps),
                console,
                watch)
            .run());
  }

  private void adapt() {
    int steps = steps(80);
    done(
        new AdaptRecipe(
                new AdaptSettings(
                    model(),
                    List.of(new SaeSpec(LAYER, out.resolve("sae-topk"))),
                    List.of(train),
                    out.resolve("adapter"),
                    "lora",
                    "kl",
                    OptionalInt.of(16),
                    32,
                    0.0,
                    "after",
                    "both",
                    2e-3,
                    Schedule.LINEAR,
                    0,
                    0.01,
                    1,
                    DemoModel.BATCH,
                    1,
                    DemoModel.CONTEXT,
                    OptionalInt.of(steps),
                    settings.seed(),
                    Optional.of(eval),
                    Math.max(1, steps / 8),
                    Optional.empty(),
                    RowOrdering.SHUFFLED,
                    false,
                    steps),
                console)
            .run());
  }

  private Path model() {
    return out.resolve("model");
  }

  private static void done(TrainingLoop.End end) {
    if (end == TrainingLoop.End.INTERRUPTED) {
      throw new Interrupted();
    }
  }

  private static void copy(Path from, Path to) {
    try {
      Files.copy(from, to, StandardCopyOption.REPLACE_EXISTING);
    } catch (IOException e) {
      throw new UncheckedIOException(from + " cannot be copied", e);
    }
  }
}
