package espalier.recipe.reproduce;

import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.recipe.DemoModel;
import espalier.recipe.SaeSpec;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Consumer;

/**
 * What all cells of a run have in common, with every setting filled in.
 *
 * @param demo whether the model is the demo's, which the cell {@code model} trains
 * @param layers how many layers the model has
 * @param hidden the width of the model
 * @param saes the SAEs that the user gave; empty: SAEs are trained
 * @param layer the layer of the SAEs, in experiments that have only one
 * @param latents the width of the SAEs, in experiments that have only one
 * @param k the active latents a token, in experiments that have only one number
 * @param rank the rank of the adapters, in experiments that have only one
 * @param adapted the layers with adapters, as {@code adapt --layers} takes them
 */
public record Setup(
    Experiment experiment,
    boolean demo,
    Path model,
    List<Path> data,
    Path evalData,
    int layers,
    int hidden,
    List<SaeSpec> saes,
    int layer,
    int latents,
    int k,
    int rank,
    String adapted,
    int batch,
    int context,
    double lr,
    double saeLr,
    long seed) {

  private static final int EXPANSION = 8;
  private static final int RANK = 16;

  static Setup of(ReproduceSettings s, Consumer<String> warn) {
    boolean demo = s.model().isEmpty();
    Folders folders = new Folders(s.out());
    int layers = DemoModel.LAYERS;
    int hidden = DemoModel.HIDDEN;
    int longest = DemoModel.CONTEXT;
    if (!demo) {
      try (ModelFolder files = ModelFolder.open(s.model().get(), warn)) {
        ModelConfig config = files.config();
        layers = config.numLayers();
        hidden = config.hiddenSize();
        longest = config.maxPositionEmbeddings();
      }
    }
    if (layers < 2) {
      throw new InputException(
          "--model: has only one layer, but an SAE needs another one behind it");
    }
    int last = layers - 1;
    int layer = s.layer().orElse((layers - 1) / 2);
    if (layer >= last) {
      throw new InputException(
          "--layer %d: must be 0 to %d, so that there is a layer behind it"
              .formatted(layer, last - 1));
    }
    for (SaeSpec sae : s.saes()) {
      if (sae.layer() >= last) {
        throw new InputException(
            "--sae %d=%s: the layer must be 0 to %d, so that there is one behind it"
                .formatted(sae.layer(), sae.path(), last - 1));
      }
    }
    int latents = s.latents().orElse(EXPANSION * hidden);
    int k = s.k().orElse(demo ? 16 : 32);
    if (4 * k > latents) {
      throw new InputException(
          "--k %d: with %d latents it must be at most %d, as experiments vary it fourfold"
              .formatted(k, latents, latents / 4));
    }
    return new Setup(
        s.experiment(),
        demo,
        demo ? folders.model() : absolute(s.model().get()),
        demo
            ? List.of(DemoModel.train(folders.modelData()))
            : s.data().stream().map(Setup::absolute).toList(),
        demo ? DemoModel.eval(folders.modelData()) : absolute(s.evalData().get()),
        layers,
        hidden,
        s.saes().stream().map(sae -> new SaeSpec(sae.layer(), absolute(sae.path()))).toList(),
        layer,
        latents,
        k,
        s.rank().orElse(RANK),
        s.layers().orElse(adaptsAll(s.experiment()) ? "all" : "after"),
        s.batch().orElse(demo ? DemoModel.BATCH : 1),
        s.context().orElse(demo ? DemoModel.CONTEXT : Math.min(512, longest)),
        s.lr().orElse(demo ? 2e-3 : 5e-4),
        s.saeLr().orElse(demo ? 2e-3 : 1e-3),
        s.seed());
  }

  /** Whether the paper adapts all layers in this experiment. */
  private static boolean adaptsAll(Experiment experiment) {
    return experiment == Experiment.TIMING || experiment == Experiment.MULTI_SAE;
  }

  private static Path absolute(Path path) {
    return path.toAbsolutePath().normalize();
  }
}
