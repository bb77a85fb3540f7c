package espalier.recipe;

import espalier.device.Device;
import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.format.SaeFile;
import espalier.format.SaeSite.Kind;
import espalier.format.SaeWeights;
import espalier.sae.Sae;
import espalier.sae.SaeLoader;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;

/** The SAEs named on the command line, checked against the model and loaded. */
final class Saes {

  private Saes() {}

  static SortedMap<Integer, Sae> load(
      Device device, List<SaeSpec> specs, ModelConfig config, Console console) {
    SortedMap<Integer, Sae> saes = new TreeMap<>();
    for (SaeSpec spec : specs) {
      try (SaeFile file = SaeFile.open(spec.path())) {
        SaeWeights weights = file.weights();
        if (weights.dIn() != config.hiddenSize()) {
          throw new InputException(
              spec.path(),
              "is for activations of width %d, the model's are %d"
                  .formatted(weights.dIn(), config.hiddenSize()));
        }
        refuseOtherSites(spec, weights);
        if (weights.site().isPresent() && weights.site().get().layer() != spec.layer()) {
          console.warn(
              "%s was made for %s, but is applied at layer %d"
                  .formatted(spec.path(), weights.hook(), spec.layer()));
        }
        saes.put(spec.layer(), SaeLoader.load(device, weights, console::warn));
      }
    }
    return saes;
  }

  /** A file that does not name its site is taken on trust. */
  private static void refuseOtherSites(SaeSpec spec, SaeWeights weights) {
    if (weights.isTranscoder()) {
      throw new InputException(
          spec.path(), "is a transcoder, which replaces an MLP and no activations");
    }
    boolean fits =
        weights.hook().isEmpty()
            || weights
                .site()
                .filter(s -> s.kind() == Kind.RESIDUAL || s.kind() == Kind.UNNAMED)
                .isPresent();
    if (!fits) {
      throw new InputException(
          spec.path(), "hook " + weights.hook() + " is not supported, only the output of a block");
    }
  }
}
