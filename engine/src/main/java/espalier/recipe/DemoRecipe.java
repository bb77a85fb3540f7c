package espalier.recipe;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.ByteTokenizer;
import espalier.data.JavaCorpus;
import espalier.format.AtomicFiles;
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

  private static final int LAYERS = 6;
  private static final int LAYER = 2;
  private static final int HIDDEN = 128;
  private static final int CONTEXT = 256;
  private static final int LATENTS = 1024;
  private static final int ACTIVE = 16;
  private static final int BATCH = 16;

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
    train = out.resolve("data/train.jsonl");
    eval = out.resolve("data/eval.jsonl");
  }

  /** Thrown through the stages when the user stops the demo. */
  private static final class Interrupted extends RuntimeException {
    private static final long serialVersionUID = 1L;
  }

  /**
   * What {@code results.json} holds: rows of the table, curves of the plot; empty if interrupted.
   */
  public Optional<ObjectNode> run() {
    DemoFolder.clear(out);
    new RunFolder(out).begin("demo", SettingsJson.of(settings), settings.seed());
    try {
      return Optional.of(tell());
    } catch (Interrupted stopped) {
      console.info("demo: stopped; started again, it begins anew");
      return Optional.empty();
    }
  }

  private ObjectNode tell() {
    prepareData();
    stage("pretrain", this::pretrain);
    stage("train SAE (TopK)", () -> trainSae("topk", "mse", steps(150), Optional.empty()));
    stage("train SAE (JumpReLU)", () -> trainSae("jumprelu", "mse", steps(150), Optional.empty()));
    stage("adapt around the TopK SAE", this::adapt);
    DemoWatch watch = new DemoWatch(eval, LAYER, Math.max(1, steps(120) / 8));
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

  private void prepareData() {
    try {
      Files.createDirectories(train.getParent());
    } catch (IOException e) {
      throw new UncheckedIOException(train.getParent() + " cannot be made", e);
    }
    JavaCorpus.write(train.getParent());
    ObjectNode config =
        JsonNodeFactory.instance
            .objectNode()
            .put("model_type", "llama")
            .put("hidden_size", HIDDEN)
            .put("num_hidden_layers", LAYERS)
            .put("num_attention_heads", 4)
            .put("num_key_value_heads", 2)
            .put("head_dim", HIDDEN / 4)
            .put("intermediate_size", 3 * HIDDEN)
            .put("vocab_size", ByteTokenizer.VOCAB)
            .put("rms_norm_eps", 1e-5)
            .put("max_position_embeddings", CONTEXT)
            .put("tie_word_embeddings", true)
            .put("hidden_act", "silu")
            .put("bos_token_id", ByteTokenizer.BOS)
            .put("eos_token_id", ByteTokenizer.EOS)
            .put("rope_theta", 10_000.0);
    Path folder = train.getParent();
    AtomicFiles.write(folder.resolve("config.json"), config);
    AtomicFiles.write(
        folder.resolve("tokenizer.json"), ByteTokenizer.definition().toPrettyString());
    AtomicFiles.write(
        folder.resolve("tokenizer_config.json"), ByteTokenizer.configuration().toPrettyString());
  }

  private void pretrain() {
    int steps = steps(200);
    done(
        new PretrainRecipe(
                new PretrainSettings(
                    train.resolveSibling("config.json"),
                    List.of(train),
                    model(),
                    BATCH,
                    CONTEXT,
                    OptionalInt.of(steps),
                    3e-3,
                    Schedule.COSINE,
                    Math.min(50, steps / 4),
                    0.1,
                    1,
                    settings.seed(),
                    false,
                    steps,
                    Optional.of(eval)),
                console)
            .run());
  }

  private void trainSae(
      String arch, String objective, int steps, Optional<TrainSaeRecipe.Watch> watch) {
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
                    BATCH,
                    CONTEXT,
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
                    BATCH,
                    1,
                    CONTEXT,
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
