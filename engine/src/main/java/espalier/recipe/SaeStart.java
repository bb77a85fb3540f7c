package espalier.recipe;

import espalier.autograd.ParameterSet;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.format.InputException;
import espalier.format.SaeWeights.Activation;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.ActivationSample;
import espalier.sae.Architecture;
import espalier.sae.Sae;
import espalier.sae.SaeDesign;
import espalier.sae.TrainableSae;
import espalier.tensor.Tensor;
import espalier.train.Seeds;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.SortedMap;
import java.util.SplittableRandom;
import java.util.TreeMap;
import java.util.stream.LongStream;

/** The SAEs that a run of {@code train-sae} begins with. */
record SaeStart(
    TrainSaeSettings settings,
    Device device,
    LanguageModel model,
    BatchSource source,
    TokenBatch batch) {

  /** Parts of a Matryoshka SAE's width that reconstruct by themselves, unless told. */
  private static final int[] NESTED = {16, 8, 4, 2};

  /**
   * @param saes by layer
   * @param parameters of all of them
   */
  record Started(SortedMap<Integer, TrainableSae> saes, ParameterSet parameters) {}

  /** Untrained SAEs, initialised from the activations of the first batch. */
  Started fresh() {
    TrainSaeSettings.Shape shape = settings.shape();
    Architecture architecture = Architecture.valueOf(shape.arch().toUpperCase(Locale.ROOT));
    SaeDesign design =
        new SaeDesign(
            architecture,
            shape.latents(),
            shape.k().orElseThrow(),
            prefixes(architecture),
            (float) shape.bandwidth(),
            shape.deadAfter());
    long d = model.config().hiddenSize();
    List<ParameterSet.Shape> shapes = new ArrayList<>();
    for (int layer : settings.layers()) {
      shapes.addAll(TrainableSae.shapes(prefix(layer), design, d));
    }
    ParameterSet parameters = new ParameterSet(device, shapes);
    SortedMap<Integer, TrainableSae> saes = new TreeMap<>();
    samples()
        .forEach(
            (layer, sample) ->
                saes.put(
                    layer,
                    TrainableSae.create(
                        device,
                        parameters,
                        prefix(layer),
                        design,
                        sample,
                        shape.decoderBias(),
                        new SplittableRandom(Seeds.at(settings.seed(), layer)))));
    return new Started(saes, parameters);
  }

  /** SAEs from files, to be trained further on activations like those of the first batch. */
  Started from(Saes initial) {
    TrainSaeSettings.Shape shape = settings.shape();
    shape.k().ifPresent(k -> requireAim(k, initial));
    SortedMap<Integer, SaeDesign> designs = new TreeMap<>();
    List<ParameterSet.Shape> shapes = new ArrayList<>();
    initial
        .byLayer()
        .forEach(
            (layer, sae) -> {
              if (!TrainableSae.canContinue(sae)) {
                throw new InputException(
                    "--init-sae: the SAE of layer %d cannot be trained further; only plain SAEs of the"
                            .formatted(layer)
                        + " residual stream can, and no GroupMax SAEs");
              }
              SaeDesign design =
                  TrainableSae.designOf(
                      sae, shape.k().orElse(0), (float) shape.bandwidth(), shape.deadAfter());
              designs.put(layer, design);
              shapes.addAll(TrainableSae.shapes(prefix(layer), design, sae.inputs()));
            });
    ParameterSet parameters = new ParameterSet(device, shapes);
    SortedMap<Integer, TrainableSae> saes = new TreeMap<>();
    samples()
        .forEach(
            (layer, sample) -> {
              Sae sae = initial.byLayer().get(layer);
              SaeDesign design = designs.get(layer);
              double variance = sample.variance();
              saes.put(
                  layer,
                  TrainableSae.from(device, parameters, prefix(layer), design, sae, variance));
            });
    return new Started(saes, parameters);
  }

  /** Other activations than JumpReLU leave no choice of how many latents are active. */
  private static void requireAim(int k, Saes initial) {
    if (initial.byLayer().values().stream().noneMatch(s -> s.activation() == Activation.JUMPRELU)) {
      throw new InputException(
          "--k %d has no effect: it is what a JumpReLU --init-sae aims at, and none is"
              .formatted(k));
    }
  }

  private static String prefix(int layer) {
    return "layer." + layer + ".";
  }

  private List<Integer> prefixes(Architecture architecture) {
    int m = settings.shape().latents();
    List<Integer> prefixes = new ArrayList<>();
    if (architecture == Architecture.MATRYOSHKA) {
      prefixes.addAll(settings.shape().prefixes());
      for (int part : NESTED) {
        int size = m / part;
        if (settings.shape().prefixes().isEmpty() && size > 0 && !prefixes.contains(size)) {
          prefixes.add(size);
        }
      }
    }
    if (prefixes.isEmpty() || prefixes.getLast() < m) {
      prefixes.add(m);
    }
    return prefixes;
  }

  /** Activations of the first batch, special positions left out, by layer. */
  private SortedMap<Integer, ActivationSample> samples() {
    source.load(0, batch);
    Tape tape = new Tape(device);
    SortedMap<Integer, Var> streams = new TreeMap<>();
    Var x = model.embed(tape, batch);
    int last = settings.layers().stream().mapToInt(Integer::intValue).max().orElseThrow();
    for (int layer = 0; layer <= last; layer++) {
      x = model.block(tape, layer, x, batch, Adapters.NONE);
      if (settings.layers().contains(layer)) {
        streams.put(layer, tape.output(x));
      }
    }
    tape.bind(device);
    tape.forward();
    SortedMap<Integer, ActivationSample> samples = new TreeMap<>();
    streams.forEach((layer, stream) -> samples.put(layer, sample(layer, stream.value())));
    return samples;
  }

  /** Errors are divided by its variance, which must be one. */
  private ActivationSample sample(int layer, Tensor stream) {
    if (!LongStream.range(0, batch.tokens()).allMatch(batch::isSpecial)) {
      ActivationSample sample = ActivationSample.of(stream, batch::isSpecial);
      String what = "the variance of activations of layer %d is".formatted(layer);
      if (Finite.require(sample.variance(), what) > 0) {
        return sample;
      }
    }
    throw new InputException(
        "--data: activations of layer %d have no variance in the first batch, special tokens aside"
            .formatted(layer));
  }
}
