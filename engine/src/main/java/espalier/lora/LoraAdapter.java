package espalier.lora;

import espalier.autograd.LowRank;
import espalier.autograd.ParameterSet;
import espalier.device.Control;
import espalier.device.Device;
import espalier.format.InputException;
import espalier.format.PeftAdapter;
import espalier.model.LanguageModel;
import espalier.nn.Adapters;
import espalier.nn.Linear.Projection;
import espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.random.RandomGenerator;

/**
 * LoRA updates of chosen linear layers of a model (Hu et al. 2021), with PEFT's conventions for
 * names, initial values and scale.
 *
 * <p>Parameters lie in memory such that the A matrices of layers which read the same input are
 * neighbours.
 */
public final class LoraAdapter {

  private final LoraSettings settings;
  private final ParameterSet parameters;
  private final Map<String, LowRank> updates = new LinkedHashMap<>();
  private final Control control;

  /** Matrices of undefined value: {@link #initialise} or {@link #load} them. */
  private LoraAdapter(Device device, LanguageModel model, LoraSettings settings, Control control) {
    this.settings = settings;
    this.control = control;
    List<ParameterSet.Shape> shapes = new ArrayList<>();
    List<Projection> adapted = new ArrayList<>();
    for (int layer : settings.layers()) {
      model
          .linearLayers(layer)
          .forEach(
              group -> {
                List<Projection> chosen =
                    group.projections().stream().filter(p -> isTarget(p.path())).toList();
                for (Projection p : chosen) {
                  shapes.add(new ParameterSet.Shape(key(p, 'A'), settings.rank(), group.inputs()));
                }
                for (Projection p : chosen) {
                  shapes.add(new ParameterSet.Shape(key(p, 'B'), p.outputs(), settings.rank()));
                }
                adapted.addAll(chosen);
              });
    }
    parameters = new ParameterSet(device, shapes);
    for (Projection p : adapted) {
      updates.put(
          p.path(),
          new LowRank(
              parameters.get(key(p, 'A')),
              parameters.get(key(p, 'B')),
              (float) settings.scale(),
              (float) settings.dropout(),
              updates.size()));
    }
  }

  /**
   * New updates that change nothing yet: A uniform in +-1/sqrt(in), as PEFT draws it, and B zero.
   */
  public static LoraAdapter initialise(
      Device device,
      LanguageModel model,
      LoraSettings settings,
      Control control,
      RandomGenerator random) {
    LoraAdapter adapter = new LoraAdapter(device, model, settings, control);
    for (LowRank update : adapter.updates.values()) {
      Tensor a = update.a().value();
      double bound = 1 / Math.sqrt(a.cols());
      for (long r = 0; r < a.rows(); r++) {
        for (long c = 0; c < a.cols(); c++) {
          a.set(r, c, (float) ((2 * random.nextDouble() - 1) * bound));
        }
      }
    }
    return adapter;
  }

  /**
   * Updates from a PEFT folder.
   *
   * @param dropout of further training; the folder's own is not used
   */
  public static LoraAdapter load(
      Device device, LanguageModel model, PeftAdapter file, double dropout, Control control) {
    LoraAdapter adapter = new LoraAdapter(device, model, settingsOf(model, file, dropout), control);
    for (Map.Entry<String, PeftAdapter.Pair> entry : file.layers().entrySet()) {
      LowRank update = adapter.updates.get(entry.getKey());
      PeftAdapter.Pair pair = entry.getValue();
      pair.a().expect(update.a().rows(), update.a().cols()).copyTo(device, update.a().value());
      pair.b().expect(update.b().rows(), update.b().cols()).copyTo(device, update.b().value());
    }
    return adapter;
  }

  /**
   * Which of the model's layers the file adapts; every one must be there, and the same kinds in
   * every block.
   */
  private static LoraSettings settingsOf(LanguageModel model, PeftAdapter file, double dropout) {
    Map<String, Integer> layerOf = new LinkedHashMap<>();
    for (int layer = 0; layer < model.layers(); layer++) {
      int at = layer;
      model
          .linearLayers(layer)
          .flatMap(group -> group.projections().stream())
          .forEach(p -> layerOf.put(p.path(), at));
    }
    TreeSet<String> targets = new TreeSet<>();
    TreeSet<Integer> layers = new TreeSet<>();
    for (String path : file.layers().keySet()) {
      Integer layer = layerOf.get(path);
      if (layer == null) {
        throw new InputException(file.file(), "the model has no linear layer " + path);
      }
      layers.add(layer);
      targets.add(lastName(path));
    }
    for (Map.Entry<String, Integer> entry : layerOf.entrySet()) {
      boolean selected =
          layers.contains(entry.getValue()) && targets.contains(lastName(entry.getKey()));
      if (selected && !file.layers().containsKey(entry.getKey())) {
        throw new InputException(
            file.file(), "tensor " + PeftAdapter.key(entry.getKey(), 'A') + " is missing");
      }
    }
    // The scale alone counts; alpha is kept as the file has it where scaling is plain.
    double alpha = file.rankStabilised() ? file.alpha() * Math.sqrt(file.rank()) : file.alpha();
    return new LoraSettings(file.rank(), alpha, dropout, targets, layers);
  }

  public LoraSettings settings() {
    return settings;
  }

  public ParameterSet parameters() {
    return parameters;
  }

  /** What a model is recorded with. */
  public Adapters adapters() {
    return new Adapters(updates, control.seedData());
  }

  /** Writes the PEFT layout. */
  public void save(Path folder, String baseModel) {
    SortedMap<String, Tensor[]> matrices = new TreeMap<>();
    updates.forEach(
        (path, update) ->
            matrices.put(path, new Tensor[] {update.a().value(), update.b().value()}));
    PeftAdapter.write(
        folder,
        new PeftAdapter.Output(
            settings.rank(),
            settings.alpha(),
            settings.dropout(),
            settings.targets(),
            settings.layers(),
            baseModel,
            matrices));
  }

  private boolean isTarget(String path) {
    return settings.targets().contains(lastName(path));
  }

  private static String lastName(String path) {
    return path.substring(path.lastIndexOf('.') + 1);
  }

  private static String key(Projection projection, char matrix) {
    return PeftAdapter.key(projection.path(), matrix);
  }
}
