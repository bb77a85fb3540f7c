package espalier.format;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.Consumer;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * A LoRA adapter in PEFT's layout: {@code adapter_config.json} and {@code
 * adapter_model.safetensors}. The two must agree on every layer. (PEFT silently ignores what else a
 * file has, and initialises what it lacks.)
 */
public final class PeftAdapter implements AutoCloseable {

  static final String WEIGHTS = "adapter_model.safetensors";

  private static final String PREFIX = "base_model.model.";

  /**
   * A tensor's name: the path of a module and the matrix. 500 characters are more than the path of
   * any real model has, and few enough to match regular expressions against.
   */
  private static final Pattern KEY =
      Pattern.compile(Pattern.quote(PREFIX) + "(.{1,500})\\.lora_([AB])\\.weight");

  /**
   * How one layer is adapted.
   *
   * @param a {@code [rank, in]}
   * @param b {@code [out, rank]}
   */
  public record Layer(int rank, double alpha, TensorEntry a, TensorEntry b) {}

  private final Safetensors file;
  private final PeftConfig config;
  private final SortedMap<String, Layer> layers = new TreeMap<>();

  private PeftAdapter(Safetensors file, PeftConfig config, Consumer<String> warn) {
    this.file = file;
    this.config = config;
    readLayers();
    config.remarkIdlePatterns(layers.keySet(), warn);
  }

  /** As below, without warnings: for callers whose user has already seen them. */
  public static PeftAdapter open(Path folder) {
    return open(folder, warning -> {});
  }

  /**
   * Opens a folder.
   *
   * @param warn told about what is odd but can be used
   */
  public static PeftAdapter open(Path folder, Consumer<String> warn) {
    PeftConfig config = PeftConfig.read(folder.resolve(PeftConfig.FILE));
    Path pickle = folder.resolve("adapter_model.bin");
    if (Files.exists(pickle) && !Files.exists(folder.resolve(WEIGHTS))) {
      throw new InputException(
          pickle, "is a pickle, which may run code; newer versions of PEFT write " + WEIGHTS);
    }
    Safetensors file = Safetensors.open(folder.resolve(WEIGHTS));
    try {
      return new PeftAdapter(file, config, warn);
    } catch (RuntimeException e) {
      file.close();
      throw e;
    }
  }

  public Path file() {
    return file.file();
  }

  public double dropout() {
    return config.dropout();
  }

  /** Whether updates are scaled by alpha / sqrt(rank), not by alpha / rank. */
  public boolean rankStabilised() {
    return config.rankStabilised();
  }

  /** The factor s of the update s B A. */
  public double scale(Layer layer) {
    return layer.alpha / (rankStabilised() ? Math.sqrt(layer.rank) : layer.rank);
  }

  /** The adapted layers by module path, such as {@code model.layers.3.mlp.up_proj}. */
  public SortedMap<String, Layer> layers() {
    return Collections.unmodifiableSortedMap(layers);
  }

  /**
   * Refuses an adapter that does not fit a model: it has layers that the model does not have, or
   * its file lacks layers that its configuration chooses.
   */
  public void requireFits(ModelConfig model) {
    ModelFamily.TensorNames names = model.family().names();
    requireFits(
        IntStream.range(0, model.numLayers())
            .mapToObj(names::linear)
            .flatMap(List::stream)
            .collect(Collectors.toCollection(TreeSet::new)),
        names.outsideBlocks());
  }

  /**
   * @param linear paths of the model's linear layers
   * @param others paths of its embeddings and head
   */
  void requireFits(Collection<String> linear, Collection<String> others) {
    for (String path : layers.keySet()) {
      if (!linear.contains(path)) {
        throw new InputException(
            file.file(),
            "tensor %s is for %s, which is no linear layer in the model's blocks"
                .formatted(key(path, 'A'), path));
      }
    }
    for (String path : linear) {
      if (config.targets().choose(path) && !layers.containsKey(path)) {
        throw new InputException(
            file.file(),
            "tensor %s is missing, although %s chooses its layer"
                .formatted(key(path, 'A'), PeftConfig.FILE));
      }
    }
    for (String path : config.targets().allLinear() ? Set.<String>of() : others) {
      if (config.targets().choose(path)) {
        throw new InputException(
            file.file(),
            "%s chooses %s; only linear layers of blocks can be adapted"
                .formatted(PeftConfig.FILE, path));
      }
    }
  }

  @Override
  public void close() {
    file.close();
  }

  /** PEFT's name for the matrix of a layer in files. {@code matrix} is A or B. */
  public static String key(String path, char matrix) {
    return PREFIX + path + ".lora_" + matrix + ".weight";
  }

  private void readLayers() {
    Map<String, TensorEntry[]> halves = new TreeMap<>();
    for (TensorEntry entry : file.tensors().values()) {
      Matcher key = KEY.matcher(entry.name());
      if (!key.matches()) {
        throw new InputException(
            file.file(), "tensor " + entry.name() + " is no LoRA matrix of a linear layer");
      }
      TensorEntry[] pair = halves.computeIfAbsent(key.group(1), path -> new TensorEntry[2]);
      pair[key.group(2).charAt(0) - 'A'] = entry;
    }
    if (halves.isEmpty()) {
      throw new InputException(file.file(), "holds no adapter");
    }
    halves.forEach((path, pair) -> layers.put(path, layer(path, pair)));
  }

  private Layer layer(String path, TensorEntry[] pair) {
    if (!config.targets().choose(path)) {
      TensorEntry any = pair[0] == null ? pair[1] : pair[0];
      throw new InputException(
          file.file(),
          "tensor %s is for a layer that %s does not choose"
              .formatted(any.name(), PeftConfig.FILE));
    }
    int rank = config.rank(path);
    for (char matrix : new char[] {'A', 'B'}) {
      TensorEntry entry = pair[matrix - 'A'];
      if (entry == null) {
        throw new InputException(file.file(), "tensor " + key(path, matrix) + " is missing");
      }
      int rankAxis = matrix == 'A' ? 0 : 1;
      if (entry.shape().length != 2 || entry.shape()[rankAxis] != rank) {
        throw new InputException(
            file.file(),
            "tensor %s has shape %s, but its rank is %d"
                .formatted(entry.name(), Arrays.toString(entry.shape()), rank));
      }
      entry.expect(entry.shape());
    }
    return new Layer(rank, config.alpha(path), pair[0], pair[1]);
  }
}
