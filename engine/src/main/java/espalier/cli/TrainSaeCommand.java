package espalier.cli;

import espalier.format.InputException;
import espalier.recipe.Console;
import espalier.recipe.Parallel;
import espalier.recipe.SaeLossWeights;
import espalier.recipe.SaeSpec;
import espalier.recipe.TrainSaeRecipe;
import espalier.recipe.TrainSaeSettings;
import espalier.report.Report;
import espalier.sae.ActivationSample.Centre;
import espalier.train.Interruption;
import espalier.train.Schedule;
import espalier.train.TrainingLoop;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

@Command(
    name = "train-sae",
    description = "Trains SAEs on a model's activations, written in SAELens' layout.")
final class TrainSaeCommand implements Callable<Integer> {

  private static final int DEFAULT_K = 32;

  @Spec private CommandSpec spec;
  @Mixin private Common common;
  @Mixin private Computing computing;
  @Mixin private Spread spread;
  @Mixin private GradientOrder gradients;
  @Mixin private Profiling profiling;

  @Option(names = "--model", required = true, description = "model folder, or name on the Hub")
  private Path model;

  @Option(
      names = "--layer",
      split = ",",
      paramLabel = "LAYER",
      description =
          "block whose output is learnt, from 0; several, as in 3,5, are learnt in one pass over"
              + " the model (default: those of --init-sae)")
  private List<Integer> layers;

  @Option(
      names = "--init-sae",
      paramLabel = "LAYER=PATH",
      description = "SAE to be trained further instead of a new one; repeatable")
  private List<String> initial = List.of();

  @Option(
      names = "--arch",
      description =
          "topk, batchtopk, matryoshka (BatchTopK), jumprelu, standard or gated (default: topk)")
  private String arch = "topk";

  @Option(
      names = "--objective",
      description =
          "mse (its own error), e2e (KL through the model), e2e+ds (and the error of later"
              + " residual streams) or kl-finetune (KL and its own error in balance, to finish an"
              + " --init-sae) (default: mse)")
  private String objective = "mse";

  @Option(
      names = "--data",
      required = true,
      arity = "1..*",
      paramLabel = "FILE",
      description =
          ".txt, .jsonl (field text), both also .gz or .zst, .parquet (column text),"
              + " or .npy (token ids [N, T])")
  private List<Path> data;

  @Option(names = "--out", required = true, description = "folder of the run and the SAE")
  private Path out;

  @Option(names = "--latents", description = "width of the SAE (default: ${DEFAULT-VALUE})")
  private int latents = 4096;

  @Option(
      names = "--k",
      description =
          "active latents a token: exactly for topk, on average for batchtopk and matryoshka, aimed"
              + " at for jumprelu (default: 32; of an --init-sae its own, or no aim)")
  private Integer k;

  @Option(
      names = "--prefixes",
      split = ",",
      paramLabel = "LATENTS",
      description =
          "first latents of a matryoshka SAE that reconstruct by themselves, as in 256,1024"
              + " (default: a sixteenth, an eighth, a quarter and half of them)")
  private List<Integer> prefixes = List.of();

  @Option(
      names = "--l1",
      description = "sparsity of a standard or gated SAE (default: ${DEFAULT-VALUE})")
  private double l1 = SaeLossWeights.DEFAULTS.l1();

  @Option(
      names = "--l0-weight",
      description = "of a jumprelu SAE's distance from --k (default: ${DEFAULT-VALUE})")
  private double l0Weight = SaeLossWeights.DEFAULTS.l0();

  @Option(
      names = "--sparsity-warmup",
      description = "steps over which both rise from 0 (default: ${DEFAULT-VALUE})")
  private int sparsityWarmup;

  @Option(
      names = "--bandwidth",
      description = "of the thresholds' gradient (default: ${DEFAULT-VALUE})")
  private double bandwidth = TrainSaeSettings.DEFAULT_BANDWIDTH;

  @Option(
      names = "--aux-weight",
      description = "of the loss that brings dead latents back (default: ${DEFAULT-VALUE})")
  private double auxWeight = SaeLossWeights.DEFAULTS.auxiliary();

  @Option(
      names = "--aux-k",
      description = "dead latents a token that it uses (default: half the model's width)")
  private int auxK;

  @Option(
      names = "--dead-after",
      description = "tokens without activity until a latent is dead (default: ${DEFAULT-VALUE})")
  private int deadAfter = TrainSaeSettings.DEFAULT_DEAD_AFTER;

  @Option(
      names = "--b-dec",
      description = "where the decoder's bias starts: mean, median or zero (default: mean)")
  private Centre decoderBias = Centre.MEAN;

  @Option(names = "--kl-weight", description = "of e2e+ds (default: ${DEFAULT-VALUE})")
  private double klWeight = SaeLossWeights.DEFAULTS.kl();

  @Option(
      names = "--downstream-weight",
      description = "of e2e+ds, for the later streams' error (default: ${DEFAULT-VALUE})")
  private double downstreamWeight = SaeLossWeights.DEFAULTS.downstream();

  @Option(names = "--lr", description = "peak learning rate (default: ${DEFAULT-VALUE})")
  private double lr = 5e-4;

  @Option(names = "--schedule", description = "constant, linear or cosine (default: linear)")
  private Schedule schedule = Schedule.LINEAR;

  @Option(names = "--warmup", description = "steps of warm-up (default: ${DEFAULT-VALUE})")
  private int warmup = 100;

  @Option(
      names = "--clip",
      description = "largest gradient norm, 0 for none (default: ${DEFAULT-VALUE})")
  private double clip = 1;

  @Option(names = "--batch", description = "rows at a time (default: ${DEFAULT-VALUE})")
  private int batch = 4;

  @Option(names = "--accumulate", description = "batches a step (default: ${DEFAULT-VALUE})")
  private int accumulate = 1;

  @Option(
      names = "--context",
      description = "tokens a row, when text is packed (default: ${DEFAULT-VALUE})")
  private int context = 512;

  @Option(names = "--steps", description = "updates (default: one pass over the data)")
  private Integer steps;

  @Option(names = "--seed", description = "of initial values and order (default: 42)")
  private long seed = 42;

  @Option(
      names = "--eval-data",
      paramLabel = "FILE",
      description = "data to evaluate the spliced model on")
  private Path evalData;

  @Option(
      names = "--eval-every",
      description = "steps between evaluations (default: first and last)")
  private int evalEvery;

  @Option(
      names = "--activation-cache",
      paramLabel = "DIR",
      description =
          "keep activations there for further passes over the data (--objective mse); not kept"
              + " unless given")
  private Path activationCache;

  @Option(names = "--resume", description = "continue the run in --out from its last checkpoint")
  private boolean resume;

  @Option(
      names = "--checkpoint-every",
      description = "steps between checkpoints (default: ${DEFAULT-VALUE})")
  private int checkpointEvery = 500;

  @Override
  public Integer call() {
    computing.check();
    List<SaeSpec> starts = initial.stream().map(Located::sae).toList();
    TrainSaeSettings settings =
        new TrainSaeSettings(
            Located.model(model),
            layers(starts),
            starts,
            new TrainSaeSettings.Shape(
                arch,
                latents,
                k == null && starts.isEmpty()
                    ? OptionalInt.of(DEFAULT_K)
                    : k == null ? OptionalInt.empty() : OptionalInt.of(k),
                prefixes,
                bandwidth,
                deadAfter,
                decoderBias),
            objective,
            new SaeLossWeights(
                l1, l0Weight, sparsityWarmup, auxWeight, auxK, klWeight, downstreamWeight),
            data,
            out,
            lr,
            schedule,
            warmup,
            clip,
            batch,
            accumulate,
            context,
            steps == null ? OptionalInt.empty() : OptionalInt.of(steps),
            seed,
            Optional.ofNullable(evalData),
            evalEvery,
            Optional.ofNullable(activationCache),
            resume,
            checkpointEvery);
    if (!starts.isEmpty()) {
      Given.among(spec, "--arch", "--latents", "--prefixes", "--b-dec")
          .findFirst()
          .ifPresent(
              option -> {
                throw new InputException(option + " has no effect: an --init-sae keeps its own");
              });
    }
    try (Interruption interruption = new Interruption()) {
      return spread.run(ranks -> train(settings, gradients.on(ranks), interruption));
    }
  }

  private int train(TrainSaeSettings settings, Parallel parallel, Interruption interruption) {
    TrainingLoop.End end =
        new TrainSaeRecipe(settings, Console.standard(), parallel)
            .profile(profiling.file())
            .run(interruption);
    if (parallel.ranks().isFirst()) {
      Report.write(out);
    }
    return end == TrainingLoop.End.DONE ? 0 : 1;
  }

  private List<Integer> layers(List<SaeSpec> starts) {
    List<Integer> named = starts.stream().map(SaeSpec::layer).sorted().toList();
    if (layers == null && named.isEmpty()) {
      throw new InputException("--layer is needed: it names the block whose output the SAE learns");
    }
    if (layers != null && !named.isEmpty() && !named.equals(layers.stream().sorted().toList())) {
      throw new InputException(
          "--layer "
              + layers
              + ": must name the layers of --init-sae, "
              + named
              + ", or be left out");
    }
    return layers == null ? named : layers;
  }
}
