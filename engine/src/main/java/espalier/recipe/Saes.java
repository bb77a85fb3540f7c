package espalier.recipe;

import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.format.SaeFile;
import espalier.format.SaeSite;
import espalier.format.SaeSite.Kind;
import espalier.format.SaeWeights;
import espalier.sae.Sae;
import espalier.sae.SaeLoader;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * The SAEs named on the command line, checked against the model and loaded.
 *
 * @param byLayer each with its site in the block
 * @param expectedL0 active latents a token, for those SAEs whose files say how many
 */
record Saes(SortedMap<Integer, Sae> byLayer, SortedMap<Integer, Double> expectedL0) {

  static Saes load(Device device, List<SaeSpec> specs, ModelConfig config, Console console) {
    return load(device, specs, config, console, Ranks.alone(), false);
  }

  /**
   * Likewise, for a job of several ranks, which all load at the same time.
   *
   * @param shard whether each rank holds a part of every SAE; else each holds all of it, and those
   *     of one machine share the memory
   */
  static Saes load(
      Device device,
      List<SaeSpec> specs,
      ModelConfig config,
      Console console,
      Ranks ranks,
      boolean shard) {
    if (shard) {
      return loadShards(device, specs, config, console, ranks);
    }
    return load(
        specs,
        config,
        console,
        (spec, weights) -> SaeLoader.load(device, weights, ranks, console::warn));
  }

  private static Saes loadShards(
      Device device, List<SaeSpec> specs, ModelConfig config, Console console, Ranks ranks) {
    if (ranks.size() == 1) {
      throw new InputException(
          "--shard-sae: there is only one process; start several, such as by mpirun -np 2 espalier …");
    }
    if (specs.isEmpty()) {
      throw new InputException("--shard-sae needs --sae");
    }
    return load(
        specs,
        config,
        console,
        (spec, weights) ->
            SaeLoader.loadShard(
                device, weights, ranks, () -> SaeFile.open(spec.path()), console::warn));
  }

  @FunctionalInterface
  private interface Loader {
    Sae load(SaeSpec spec, SaeWeights weights);
  }

  private static Saes load(
      List<SaeSpec> specs, ModelConfig config, Console console, Loader loader) {
    SortedMap<Integer, Sae> saes = new TreeMap<>();
    SortedMap<Integer, Double> expectedL0 = new TreeMap<>();
    for (SaeSpec spec : specs) {
      try (SaeFile file = SaeFile.open(spec.path())) {
        SaeWeights weights = file.weights();
        check(spec, weights, config);
        if (weights.site().isPresent() && weights.site().get().layer() != spec.layer()) {
          console.warn(
              "%s was made for %s, but is applied at layer %d"
                  .formatted(spec.path(), weights.hook(), spec.layer()));
        }
        saes.put(spec.layer(), loader.load(spec, weights));
        weights.expectedL0().ifPresent(l0 -> expectedL0.put(spec.layer(), l0));
      }
    }
    return new Saes(saes, expectedL0);
  }

  /**
   * Bytes of the SAEs' weights that each rank computes with. All ranks call this at the same time.
   */
  long[] bytes(Ranks ranks) {
    double own = byLayer.values().stream().mapToLong(Sae::bytes).sum();
    return Arrays.stream(ranks.gather(own)).mapToLong(bytes -> (long) bytes).toArray();
  }

  /** Refuses what cannot stand in for activations of this model. */
  private static void check(SaeSpec spec, SaeWeights weights, ModelConfig config) {
    String option = "--sae %d=%s: ".formatted(spec.layer(), spec.path());
    String hook = weights.hook().isEmpty() ? "" : " (" + weights.hook() + ")";
    if (weights.isTranscoder() || weights.dOut() != weights.dIn()) {
      throw new InputException(
          option
              + "is a transcoder"
              + hook
              + ", which computes one activation from another and cannot stand in for either");
    }
    Optional<Kind> site = weights.site().map(SaeSite::kind);
    if (site.isEmpty() && !weights.hook().isEmpty()) {
      throw new InputException(
          option
              + "hook "
              + weights.hook()
              + " is not known, so there is no place to apply the SAE");
    }
    long width =
        switch (site.orElse(Kind.RESIDUAL)) {
          case RESIDUAL, UNNAMED, ATTENTION_MODULE_OUT, ATTENTION_OUT, MLP_MODULE_OUT, MLP_OUT ->
              config.hiddenSize();
          case ATTENTION_HEADS -> (long) config.numHeads() * config.headDim();
          case EMBEDDING, RESIDUAL_MID, MLP_IN ->
              throw new InputException(
                  option
                      + "is for the %s%s; SAEs can be applied only to the residual stream after a block,"
                          .formatted(site.get().label(), hook)
                      + " attention heads, attention out and MLP out");
        };
    if (weights.dIn() != width) {
      throw new InputException(
          option
              + "is for activations of width %d, but the model's have %d%s"
                  .formatted(weights.dIn(), width, hook));
    }
  }
}
