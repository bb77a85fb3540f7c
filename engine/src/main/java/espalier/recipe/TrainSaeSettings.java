package espalier.recipe;

import espalier.format.InputException;
import espalier.sae.ActivationSample.Centre;
import espalier.train.Schedule;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;

/**
 * The options of {@code espalier train-sae}.
 *
 * @param layers blocks whose outputs are learnt, one SAE for each
 * @param initial SAEs to be trained further, one for each layer; empty for new ones
 * @param objective {@code mse}, {@code e2e}, {@code e2e+ds} or {@code kl-finetune}
 * @param clip largest gradient norm of all SAEs together; 0 for none
 * @param steps not given: one pass over the data
 * @param evalEvery steps between evaluations; 0: first and last only
 * @param activationCache folder in which activations are kept between passes over the data
 */
public record TrainSaeSettings(
    Path model,
    List<Integer> layers,
    List<SaeSpec> initial,
    Shape shape,
    String objective,
    SaeLossWeights weights,
    List<Path> data,
    Path out,
    double lr,
    Schedule schedule,
    int warmup,
    double clip,
    int batch,
    int accumulate,
    int context,
    OptionalInt steps,
    long seed,
    Optional<Path> evalData,
    int evalEvery,
    Optional<Path> activationCache,
    boolean resume,
    int checkpointEvery) {

  public static final double DEFAULT_BANDWIDTH = 0.2;
  public static final int DEFAULT_DEAD_AFTER = 10_000_000;

  private static final List<String> ARCHITECTURES =
      List.of("topk", "batchtopk", "matryoshka", "jumprelu", "standard", "gated");

  /**
   * The design of the SAEs.
   *
   * @param arch {@code topk}, {@code batchtopk}, {@code matryoshka}, {@code jumprelu}, {@code
   *     standard} or {@code gated}
   * @param latents width of the SAE
   * @param k active latents a token: exactly for topk, on average for batchtopk and matryoshka,
   *     aimed at for jumprelu; empty for an SAE from a file: its own k, or no aim
   * @param prefixes numbers of first latents that reconstruct by themselves; empty: a sixteenth, an
   *     eighth, a quarter and half of them
   * @param bandwidth of the straight-through gradient of thresholds, in units of scaled
   *     pre-activations
   * @param deadAfter tokens without activity after which a latent is dead
   * @param decoderBias where it starts
   */
  public record Shape(
      String arch,
      int latents,
      OptionalInt k,
      List<Integer> prefixes,
      double bandwidth,
      int deadAfter,
      Centre decoderBias) {

    public Shape {
      if (!ARCHITECTURES.contains(arch)) {
        throw new InputException(
            "--arch " + arch + ": supported are " + String.join(", ", ARCHITECTURES));
      }
      Require.atLeast("--latents", latents, 1);
      if (k.isPresent()) {
        Require.atLeast("--k", k.getAsInt(), 1);
        if (k.getAsInt() > latents) {
          throw new InputException(
              "--k %d: there are only %d latents".formatted(k.getAsInt(), latents));
        }
      }
      for (int i = 0; i < prefixes.size(); i++) {
        if (prefixes.get(i) <= (i == 0 ? 0 : prefixes.get(i - 1)) || prefixes.get(i) >= latents) {
          throw new InputException(
              "--prefixes %s: expected ascending numbers below the %d latents"
                  .formatted(prefixes, latents));
        }
      }
      if (!prefixes.isEmpty() && !arch.equals("matryoshka")) {
        throw new InputException("--prefixes: only matryoshka SAEs have prefixes");
      }
      Require.positive("--bandwidth", bandwidth);
      Require.atLeast("--dead-after", deadAfter, 1);
      if (deadAfter >= 1 << 24) {
        throw new InputException("--dead-after " + deadAfter + ": must be below 16777216");
      }
    }
  }

  /** New SAEs of one layer on text of their own, with defaults for all else. */
  public TrainSaeSettings(
      Path model,
      int layer,
      String arch,
      String objective,
      List<Path> data,
      Path out,
      int latents,
      int k,
      double l1,
      double bandwidth,
      double lr,
      Schedule schedule,
      int warmup,
      int batch,
      int context,
      OptionalInt steps,
      long seed,
      boolean resume,
      int checkpointEvery) {
    this(
        model,
        List.of(layer),
        List.of(),
        new Shape(
            arch,
            latents,
            OptionalInt.of(k),
            List.of(),
            bandwidth,
            DEFAULT_DEAD_AFTER,
            Centre.MEAN),
        objective,
        SaeLossWeights.DEFAULTS.withL1(l1),
        data,
        out,
        lr,
        schedule,
        warmup,
        1,
        batch,
        1,
        context,
        steps,
        seed,
        Optional.empty(),
        0,
        Optional.empty(),
        resume,
        checkpointEvery);
  }

  public TrainSaeSettings {
    SaeLoss loss = SaeLoss.parse(objective);
    if (layers.isEmpty()) {
      throw new InputException("--layer: at least one is needed");
    }
    for (int layer : layers) {
      Require.atLeast("--layer", layer, 0);
    }
    if (layers.stream().distinct().count() < layers.size()) {
      throw new InputException("--layer: a layer is given twice");
    }
    if (loss == SaeLoss.KL_FINETUNE && initial.isEmpty()) {
      throw new InputException(
          "--objective kl-finetune trains an SAE further; --init-sae must name it");
    }
    if (loss.hasKl() && !loss.hasReconstruction() && shape.arch().equals("matryoshka")) {
      throw new InputException(
          "--objective "
              + objective
              + ": a matryoshka SAE needs an objective with reconstruction errors");
    }
    if (shape.k().isEmpty() && initial.isEmpty()) {
      throw new InputException("--k is needed for a new SAE");
    }
    if (activationCache.isPresent() && loss.hasKl()) {
      throw new InputException(
          "--activation-cache: --objective "
              + objective
              + " needs the model in every step, so kept activations are of no use");
    }
    Require.positive("--lr", lr);
    Require.atLeast("--warmup", warmup, 0);
    Require.notNegative("--clip", clip);
    Require.atLeast("--batch", batch, 1);
    Require.atLeast("--accumulate", accumulate, 1);
    Require.atLeast("--context", context, 2);
    steps.ifPresent(s -> Require.atLeast("--steps", s, 1));
    Require.atLeast("--eval-every", evalEvery, 0);
    if (evalEvery > 0 && evalData.isEmpty()) {
      throw new InputException("--eval-every needs --eval-data");
    }
    Require.atLeast("--checkpoint-every", checkpointEvery, 1);
  }
}
