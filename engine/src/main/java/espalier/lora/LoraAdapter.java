package espalier.lora;

import espalier.autograd.LowRank;
import espalier.autograd.ParameterSet;
import espalier.device.Device;
import espalier.device.Transfer;
import espalier.format.PeftAdapter;
import espalier.format.PeftWriter;
import espalier.format.TensorEntry;
import espalier.model.LanguageModel;
import espalier.model.LanguageModel.LinearLayer;
import espalier.nn.Adapters;
import espalier.nn.FusedRows;
import espalier.nn.Linear.Projection;
import espalier.tensor.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.random.RandomGenerator;
import java.util.stream.IntStream;

/**
 * LoRA updates of chosen linear layers of a model (Hu et al. 2021), with PEFT's conventions for
 * names, initial values and scale.
 *
 * <p>Parameters lie in memory such that the A matrices of layers which read the same input are
 * neighbours. Where the model has room beside a weight ({@link WeightBlock}), the copies that
 * products read lie there.
 */
public final class LoraAdapter {

  private final LoraSettings settings;
  private final ParameterSet parameters;
  private final Map<String, LowRank> updates = new LinkedHashMap<>();
  private final Map<String, Projection> linear = new LinkedHashMap<>(); // of the whole model
  private final boolean storedTransposed;
  private final Device device;

  /**
   * Lays out the matrices; their values are undefined until {@link #initialise} or {@link #load}
   * sets them.
   */
  private LoraAdapter(
      Device device, LanguageModel model, LoraSettings settings, List<ParameterSet.Shape> beside) {
    this.settings = settings;
    this.device = device;
    storedTransposed = model.config().family().storesTransposed();
    List<ParameterSet.Shape> shapes = new ArrayList<>();
    Map<String, Tensor> copies = new HashMap<>();
    List<Projection> adapted = new ArrayList<>();
    for (LinearLayer group : groups(model)) {
      group.projections().forEach(p -> linear.put(p.path(), p));
      List<Projection> chosen =
          group.projections().stream()
              .filter(p -> settings.layers().containsKey(p.path()))
              .toList();
      for (Projection p : chosen) {
        shapes.add(new ParameterSet.Shape(key(p, 'A'), rank(p), group.inputs()));
      }
      for (Projection p : chosen) {
        shapes.add(new ParameterSet.Shape(key(p, 'B'), p.outputs(), rank(p)));
      }
      if (group.room() != null) {
        place(group, chosen, copies);
      }
      adapted.addAll(chosen);
    }
    shapes.addAll(beside);
    parameters = new ParameterSet(device, shapes, copies);
    for (Projection p : adapted) {
      updates.put(
          p.path(),
          new LowRank(
              parameters.get(key(p, 'A')),
              parameters.get(key(p, 'B')),
              (float) settings.scale(p.path()),
              (float) settings.dropout(),
              updates.size()));
    }
  }

  /**
   * Gives the A of these layers places below the weight, and their B places to its right: see
   * {@link WeightBlock}.
   */
  private void place(LinearLayer group, List<Projection> chosen, Map<String, Tensor> copies) {
    long row = 0;
    long from = 0;
    for (Projection p : group.projections()) {
      if (chosen.contains(p)) {
        copies.put(key(p, 'A'), group.room().a(from, rank(p)));
        copies.put(key(p, 'B'), group.room().b(row, p.outputs(), from, rank(p)));
        from += rank(p);
      }
      row += p.outputs();
    }
  }

  private int rank(Projection projection) {
    return settings.layers().get(projection.path()).rank();
  }

  private static List<LinearLayer> groups(LanguageModel model) {
    return IntStream.range(0, model.layers()).boxed().flatMap(model::linearLayers).toList();
  }

  /**
   * New updates that change nothing yet: A uniform in +-1/sqrt(in), as PEFT draws it, and B zero.
   *
   * @param beside further parameters, laid out with those of the updates and trained with them
   */
  public static LoraAdapter initialise(
      Device device,
      LanguageModel model,
      LoraSettings settings,
      List<ParameterSet.Shape> beside,
      RandomGenerator random) {
    LoraAdapter adapter = new LoraAdapter(device, model, settings, beside);
    for (LowRank update : adapter.updates.values()) {
      Tensor a = update.a().value();
      double bound = 1 / Math.sqrt(a.cols());
      float[] values = new float[Math.toIntExact(a.size())];
      for (int i = 0; i < values.length; i++) {
        values[i] = (float) ((2 * random.nextDouble() - 1) * bound);
      }
      a.copyFrom(values);
    }
    adapter.parameters.round(device.kernels());
    return adapter;
  }

  /**
   * Updates from a PEFT folder.
   *
   * @param dropout of further training; the folder's own is not used
   */
  public static LoraAdapter load(
      Device device, LanguageModel model, PeftAdapter file, double dropout) {
    return load(device, model, file, dropout, List.of());
  }

  /**
   * Likewise, with further parameters.
   *
   * @param beside as in {@link #initialise}
   */
  public static LoraAdapter load(
      Device device,
      LanguageModel model,
      PeftAdapter file,
      double dropout,
      List<ParameterSet.Shape> beside) {
    file.requireFits(model.config());
    LoraAdapter adapter = new LoraAdapter(device, model, LoraSettings.of(file, dropout), beside);
    file.layers()
        .forEach(
            (path, layer) -> {
              LowRank update = adapter.updates.get(path);
              read(device, layer.a(), update.a().value());
              Tensor b = update.b().value();
              read(device, layer.b(), b);
              FusedRows rows = adapter.linear.get(path).rows();
              if (rows != null) {
                rows.fromFile(copy(b), b);
              }
            });
    adapter.parameters.round(device.kernels());
    return adapter;
  }

  private static void read(Device device, TensorEntry entry, Tensor target) {
    entry.expect(target.rows(), target.cols()).copyTo(device, target);
  }

  public LoraSettings settings() {
    return settings;
  }

  public ParameterSet parameters() {
    return parameters;
  }

  /** The updates to record a model with. */
  public Adapters adapters() {
    return new Adapters(updates, device.control().seedData());
  }

  /** Writes the PEFT layout. */
  public void save(Path folder, String baseModel) {
    SortedMap<String, PeftWriter.Layer> layers = new TreeMap<>();
    settings
        .layers()
        .forEach(
            (path, layer) -> {
              Tensor a = updates.get(path).a().value();
              layers.put(path, new PeftWriter.Layer(layer.rank(), layer.alpha(), a, stored(path)));
            });
    PeftWriter.write(
        folder,
        new PeftWriter.Adapter(
            layers,
            linear.keySet(),
            settings.dropout(),
            settings.rankStabilised(),
            storedTransposed,
            baseModel));
  }

  /** B with its rows in the order of files. */
  private Tensor stored(String path) {
    Tensor b = updates.get(path).b().value();
    FusedRows rows = linear.get(path).rows();
    if (rows == null) {
      return b;
    }
    Tensor stored = copy(b);
    rows.toFile(b, stored);
    return stored;
  }

  private static Tensor copy(Tensor tensor) {
    MemorySegment data = Arena.ofAuto().allocate(tensor.size() * Float.BYTES, Float.BYTES);
    Transfer.copy(tensor.bytes(), data);
    return Tensor.of(data, tensor.rows(), tensor.cols());
  }

  private static String key(Projection projection, char matrix) {
    return PeftAdapter.key(projection.path(), matrix);
  }
}
