package espalier.recipe;

import espalier.autograd.ParameterSet;
import espalier.device.Device;
import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.format.OutputAdapterFile;
import espalier.format.PeftAdapter;
import espalier.lora.LoraAdapter;
import espalier.lora.LoraSettings;
import espalier.lora.OutputAdapter;
import espalier.model.LanguageModel;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.SaeDesign;
import espalier.sae.SaeWriter;
import espalier.sae.TrainableSae;
import espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.SortedMap;
import java.util.SortedSet;
import java.util.SplittableRandom;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.Consumer;
import java.util.stream.Collectors;

/**
 * What a run of {@code adapt} trains, and the students it makes of the model.
 *
 * @param parameters of everything that is trained
 * @param lora the low-rank adapters, where they are trained
 * @param trained SAEs that are trained, by layer
 * @param outputs adapters at the SAEs' outputs that are trained, by layer
 */
record Adaptation(
    AdaptTarget target,
    SortedMap<Integer, Sae> saes,
    ParameterSet parameters,
    Optional<LoraAdapter> lora,
    SortedMap<Integer, TrainableSae> trained,
    SortedMap<Integer, OutputAdapter> outputs) {

  /**
   * Width of the straight-through gradient of thresholds that are trained further, in the SAE's own
   * units (Rajamanoharan et al. 2024).
   */
  private static final float BANDWIDTH = 0.001f;

  /** Tokens after which a latent is dead: the most there can be, as no loss is for dead latents. */
  private static final int NEVER = (1 << 24) - 1;

  static Adaptation begin(
      Device device, LanguageModel model, SortedMap<Integer, Sae> saes, AdaptSettings settings) {
    AdaptTarget target = settings.target();
    SortedMap<Integer, SaeDesign> designs = new TreeMap<>();
    List<ParameterSet.Shape> shapes = new ArrayList<>();
    saes.forEach(
        (layer, sae) -> {
          if (target.hasSae()) {
            SaeDesign design = design(layer, sae, target);
            designs.put(layer, design);
            shapes.addAll(TrainableSae.shapes(prefix(layer), design, sae.inputs()));
          } else if (!target.hasLora()) {
            shapes.addAll(OutputAdapter.shapes(prefix(layer), rank(settings), sae.outputs()));
          }
        });
    Optional<LoraAdapter> lora =
        target.hasLora() ? Optional.of(lora(device, model, settings, shapes)) : Optional.empty();
    ParameterSet parameters =
        lora.map(LoraAdapter::parameters).orElseGet(() -> new ParameterSet(device, shapes));
    SortedMap<Integer, TrainableSae> trained = new TreeMap<>();
    SortedMap<Integer, OutputAdapter> outputs = new TreeMap<>();
    saes.forEach(
        (layer, sae) -> {
          if (target.hasSae()) {
            trained.put(
                layer,
                TrainableSae.from(device, parameters, prefix(layer), designs.get(layer), sae, 1));
          } else if (!target.hasLora()) {
            OutputAdapter adapter = OutputAdapter.of(parameters, prefix(layer), kind(target));
            adapter.initialise(new SplittableRandom(settings.seed() + layer));
            outputs.put(layer, adapter);
          }
        });
    parameters.round(device.kernels());
    return new Adaptation(target, saes, parameters, lora, trained, outputs);
  }

  private static SaeDesign design(int layer, Sae sae, AdaptTarget target) {
    if (!TrainableSae.canContinue(sae)) {
      throw new InputException(
          "--train %s: the SAE of layer %d cannot be trained further; only plain SAEs of the residual"
                  .formatted(target, layer)
              + " stream can, and no GroupMax SAEs");
    }
    return TrainableSae.designOf(sae, 0, BANDWIDTH, NEVER);
  }

  private static OutputAdapter.Kind kind(AdaptTarget target) {
    return target == AdaptTarget.LINEAR ? OutputAdapter.Kind.LINEAR : OutputAdapter.Kind.MLP;
  }

  private static String prefix(int layer) {
    return "layer." + layer + ".";
  }

  private static int rank(AdaptSettings settings) {
    return settings.rank().orElse(AdaptSettings.DEFAULT_RANK);
  }

  /**
   * The ranks of the low-rank updates that a run will train, by path of the layer.
   *
   * @param warn told of what is odd about the adapter that the run begins with
   */
  static Map<String, Integer> ranks(
      ModelConfig config, AdaptSettings settings, Consumer<String> warn) {
    if (!settings.target().hasLora()) {
      return Map.of();
    }
    if (settings.initAdapter().isEmpty()) {
      return newAdapter(config, settings).ranks();
    }
    try (PeftAdapter file = PeftAdapter.open(settings.initAdapter().get(), warn)) {
      return LoraSettings.of(file, settings.dropout()).ranks();
    }
  }

  private static LoraSettings newAdapter(ModelConfig config, AdaptSettings settings) {
    return LoraSettings.uniform(
        AdapterChoice.paths(
            settings.targets(),
            AdapterChoice.layers(settings.layers(), settings.saes(), config.numLayers()),
            config),
        rank(settings),
        settings.alpha(),
        settings.dropout());
  }

  /**
   * @param beside shapes of other parameters that are trained together with the adapters'
   */
  private static LoraAdapter lora(
      Device device, LanguageModel model, AdaptSettings settings, List<ParameterSet.Shape> beside) {
    if (settings.initAdapter().isEmpty()) {
      return LoraAdapter.initialise(
          device,
          model,
          newAdapter(model.config(), settings),
          beside,
          new SplittableRandom(settings.seed()));
    }
    try (PeftAdapter file = PeftAdapter.open(settings.initAdapter().get())) {
      SortedSet<Integer> ranks = new TreeSet<>();
      file.layers().values().forEach(layer -> ranks.add(layer.rank()));
      if (settings.rank().isPresent() && !ranks.equals(Set.of(settings.rank().getAsInt()))) {
        throw new InputException(
            "--rank %d: the adapter of --init-adapter has rank %s; leave out --rank"
                .formatted(
                    settings.rank().getAsInt(),
                    ranks.stream().map(String::valueOf).collect(Collectors.joining(", "))));
      }
      return LoraAdapter.load(device, model, file, settings.dropout(), beside);
    }
  }

  /** The model as it is trained. */
  Streams.Variant student() {
    Adapters adapters = lora.map(LoraAdapter::adapters).orElse(Adapters.NONE);
    return new Streams.Variant(saes, adapters).training(trained).adaptedOutputs(outputs);
  }

  /** The student as evaluations run it: it reads the trained weights, but gives no gradients. */
  Streams.Variant measured() {
    Adapters adapters = lora.map(l -> l.adapters().frozen()).orElse(Adapters.NONE);
    SortedMap<Integer, Sae> frozen = new TreeMap<>(saes);
    trained.forEach((layer, sae) -> frozen.put(layer, sae.sae().frozen()));
    SortedMap<Integer, OutputAdapter> fixed = new TreeMap<>();
    outputs.forEach((layer, adapter) -> fixed.put(layer, adapter.frozen()));
    return new Streams.Variant(frozen, adapters).adaptedOutputs(fixed);
  }

  /**
   * Adapters of the model in PEFT's layout, those of outputs in a file of our own, SAEs in a folder
   * {@code layer-L} each.
   *
   * @param model folder that it was read from
   * @param context tokens of the rows it was trained on
   * @param hasBos whether these begin with BOS
   */
  void save(Device device, Path folder, Path model, int context, boolean hasBos) {
    lora.ifPresent(l -> l.save(folder, ModelName.ofAdapter(model)));
    trained.forEach(
        (layer, sae) ->
            SaeWriter.write(
                device,
                sae,
                sae.folded(device),
                folder.resolve("layer-" + layer),
                new SaeWriter.Origin(layer, ModelName.ofSae(model), context, hasBos)));
    if (!outputs.isEmpty()) {
      SortedMap<Integer, Tensor> down = new TreeMap<>();
      SortedMap<Integer, Tensor> up = new TreeMap<>();
      outputs.forEach(
          (layer, adapter) -> {
            down.put(layer, adapter.down().value());
            up.put(layer, adapter.up().value());
          });
      OutputAdapterFile.write(folder, target == AdaptTarget.LINEAR, down, up);
    }
  }
}
