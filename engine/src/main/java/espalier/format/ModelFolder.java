package espalier.format;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.function.Consumer;
import java.util.regex.Pattern;

/**
 * A model in Hugging Face's layout: {@code config.json} and one safetensors file, or an index of
 * several.
 */
public final class ModelFolder implements AutoCloseable {

  public static final String CONFIG = "config.json";
  private static final String SINGLE = "model.safetensors";
  public static final String INDEX = "model.safetensors.index.json";

  /** A name within the folder: without separators, and neither "." nor "..". */
  private static final Pattern SHARD = Pattern.compile("[\\w.-]+\\.safetensors");

  /** Tensors that are not learned, but that older versions of transformers saved. */
  private static final Pattern BUFFER =
      Pattern.compile(
          ".*\\.rotary_emb\\.inv_freq|(.*\\.)?\\d+\\.(attn|attention)\\.(masked_)?bias");

  private final Path folder;
  private ModelConfig config;
  private final List<Safetensors> files = new ArrayList<>();
  private final Map<String, TensorEntry> tensors = new TreeMap<>();
  private final Set<String> taken = new HashSet<>();

  private ModelFolder(Path folder, Consumer<String> warn) {
    this.folder = folder;
    config = ModelConfig.read(folder.resolve(CONFIG), warn);
  }

  /** As below, without warnings: for callers whose user has already seen them. */
  public static ModelFolder open(Path folder) {
    return open(folder, warning -> {});
  }

  /**
   * Opens a folder.
   *
   * @param warn told about what is odd but can be used
   */
  public static ModelFolder open(Path folder, Consumer<String> warn) {
    if (!Files.isDirectory(folder)) {
      throw new InputException(folder, "no such folder");
    }
    ModelFolder result = new ModelFolder(folder, warn);
    try {
      result.openFiles();
      result.untie(warn);
    } catch (RuntimeException e) {
      result.close();
      throw e;
    }
    return result;
  }

  public Path folder() {
    return folder;
  }

  /**
   * What {@code config.json} says; but if the files have a head of their own, it is not tied to the
   * embedding.
   */
  public ModelConfig config() {
    return config;
  }

  /** The files that hold the weights. */
  public List<Safetensors> files() {
    return List.copyOf(files);
  }

  /** A tensor, which must have the given shape. Refuses another shape, and a missing tensor. */
  public TensorEntry tensor(String name, long... shape) {
    return tensor(name).expect(shape);
  }

  /**
   * A tensor of any shape. Refuses a missing one; but where embedding and head are tied, files may
   * hold only the head, as transformers 5 reads them.
   */
  public TensorEntry tensor(String name) {
    TensorEntry entry = tensors.get(nameInFiles(name));
    if (entry == null && config.tieWordEmbeddings() && name.equals(embedding())) {
      entry = tensors.get(head());
    }
    if (entry == null) {
      throw new InputException(files.getFirst().file(), "tensor " + name + " is missing");
    }
    taken.add(entry.name());
    return entry;
  }

  private String embedding() {
    return config.family().names().embedding() + ".weight";
  }

  private String head() {
    return config.family().names().head() + ".weight";
  }

  /**
   * The name of a tensor in these files. Files of the bare model, without its head, leave out the
   * beginning of all other names.
   */
  private String nameInFiles(String name) {
    String base = config.family().names().base();
    boolean bare = tensors.keySet().stream().noneMatch(other -> other.startsWith(base));
    return bare && name.startsWith(base) ? name.substring(base.length()) : name;
  }

  /**
   * Uses a head that the files hold besides the embedding, unless the two are the same.
   * transformers 5 does so whatever the configuration says.
   */
  private void untie(Consumer<String> warn) {
    TensorEntry embedding = tensors.get(nameInFiles(embedding()));
    TensorEntry head = tensors.get(head());
    if (!config.tieWordEmbeddings()
        || embedding == null
        || head == null
        || head.holdsTheSameAs(embedding)) {
      return;
    }
    Path file = folder.resolve(CONFIG);
    warn.accept(
        "%s: %s is true, but tensors %s and %s differ, so they are taken as not tied"
            .formatted(file, ModelConfig.TIED, embedding.name(), head.name()));
    config = ModelConfig.of(file, config.source().deepCopy().put(ModelConfig.TIED, false));
  }

  /**
   * Refuses tensors that nobody has asked for, because a model that leaves out weights computes
   * something else. Rotary frequencies and causal masks in old files, and the copy of a tied head,
   * do no harm.
   */
  public void requireAllTaken() {
    String head = head();
    for (TensorEntry entry : tensors.values()) {
      String name = entry.name();
      boolean harmless =
          BUFFER.matcher(name).matches() || (config.tieWordEmbeddings() && name.equals(head));
      if (!harmless && !taken.contains(name)) {
        throw new InputException(
            entry.file(), "tensor " + name + " has no place in the model of config.json");
      }
    }
  }

  @Override
  public void close() {
    files.forEach(Safetensors::close);
  }

  /**
   * Writes a model that transformers can load: one file of float32 tensors. The weights are written
   * first.
   */
  public static void write(Path folder, ModelConfig config, List<Safetensors.Output> tensors) {
    Safetensors.write(folder.resolve(SINGLE), tensors, Map.of("format", "pt"));
    AtomicFiles.write(folder.resolve(CONFIG), config.toJson());
  }

  private void openFiles() {
    Path index = folder.resolve(INDEX);
    if (!Files.exists(index)) {
      add(Safetensors.open(folder.resolve(SINGLE)));
      return;
    }
    if (Files.exists(folder.resolve(SINGLE))) {
      throw new InputException(
          index, "there is also a " + SINGLE + ", and only one can count: remove the other");
    }
    StrictJson json = StrictJson.read(index);
    StrictJson map =
        json.object("weight_map").orElseThrow(() -> json.fault("weight_map", "is missing"));
    Map<String, Safetensors> shards = new TreeMap<>();
    for (String name : map.keys()) {
      String shard = map.text(name);
      if (!SHARD.matcher(shard).matches()) {
        throw new InputException(
            index, "tensor " + name + " is in \"" + shard + "\", which is no file of this folder");
      }
      if (!shards.containsKey(shard)) {
        Safetensors file = Safetensors.open(folder.resolve(shard));
        shards.put(shard, file);
        add(file);
      }
      if (!shards.get(shard).tensors().containsKey(name)) {
        throw new InputException(index, "tensor %s is not in %s".formatted(name, shard));
      }
    }
    for (String name : tensors.keySet()) {
      JsonNode named = map.raw(name);
      if (named.isMissingNode()) {
        throw new InputException(
            index,
            "tensor %s of %s is not listed"
                .formatted(name, tensors.get(name).file().getFileName()));
      }
    }
  }

  private void add(Safetensors file) {
    files.add(file);
    file.tensors()
        .forEach(
            (name, entry) -> {
              TensorEntry other = tensors.put(name, entry);
              if (other != null) {
                throw new InputException(
                    file.file(),
                    "tensor %s is in %s, too".formatted(name, other.file().getFileName()));
              }
            });
  }
}
