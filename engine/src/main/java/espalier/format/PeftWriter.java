package espalier.format;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SortedMap;
import java.util.SortedSet;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.function.Function;
import java.util.function.UnaryOperator;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * Writes a LoRA adapter that PEFT loads unchanged. Its configuration names what is adapted as
 * briefly as it can: by kinds of layers and blocks if that says exactly the right thing, otherwise
 * layer by layer.
 */
public final class PeftWriter {

  /**
   * The path of a layer within a block: what comes before the block's number, the number, and the
   * rest.
   */
  private static final Pattern IN_BLOCK = Pattern.compile("(?:.*?\\.)?(\\w+)\\.(\\d{1,6})\\.(.+)");

  /**
   * @param a {@code [rank, in]}
   * @param b {@code [out, rank]}
   */
  public record Layer(int rank, double alpha, Tensor a, Tensor b) {}

  /**
   * An adapter.
   *
   * @param layers what is adapted, by module path
   * @param linear every linear layer in the model's blocks, adapted or not
   * @param rankStabilised whether the scale is alpha / sqrt(rank), not alpha / rank
   * @param storedTransposed whether the model's files hold its weights as {@code [in, out]}
   * @param baseModel the model's name on the Hub, or its folder
   */
  public record Adapter(
      SortedMap<String, Layer> layers,
      Collection<String> linear,
      double dropout,
      boolean rankStabilised,
      boolean storedTransposed,
      String baseModel) {}

  private final Adapter adapter;

  private PeftWriter(Adapter adapter) {
    this.adapter = adapter;
  }

  /** Writes an adapter, the weights first, so that a folder with a configuration is complete. */
  public static void write(Path folder, Adapter adapter) {
    List<Safetensors.Output> tensors = new ArrayList<>();
    adapter.layers.forEach(
        (path, layer) -> {
          tensors.add(Safetensors.Output.matrix(PeftAdapter.key(path, 'A'), layer.a));
          tensors.add(Safetensors.Output.matrix(PeftAdapter.key(path, 'B'), layer.b));
        });
    try {
      Files.createDirectories(folder);
    } catch (IOException e) {
      throw new UncheckedIOException(folder + " cannot be made", e);
    }
    Safetensors.write(folder.resolve(PeftAdapter.WEIGHTS), tensors, Map.of("format", "pt"));
    AtomicFiles.write(folder.resolve(PeftConfig.FILE), new PeftWriter(adapter).config());
  }

  private ObjectNode config() {
    int rank = mostFrequent(Layer::rank);
    double alpha = mostFrequent(Layer::alpha);
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    putNumbers(json.putObject("alpha_pattern"), Layer::alpha, alpha);
    json.put("base_model_name_or_path", adapter.baseModel);
    json.put("bias", "none");
    json.putNull("exclude_modules");
    json.put("fan_in_fan_out", adapter.storedTransposed);
    json.put("inference_mode", true);
    json.put("init_lora_weights", true);
    json.putNull("layers_pattern");
    json.putNull("layers_to_transform");
    putNumber(json, "lora_alpha", alpha);
    json.put("lora_bias", false);
    json.put("lora_dropout", adapter.dropout);
    json.putNull("modules_to_save");
    json.put("peft_type", "LORA");
    json.put("r", rank);
    putNumbers(json.putObject("rank_pattern"), layer -> (double) layer.rank, rank);
    json.putNull("revision");
    putTargets(json);
    json.put("task_type", "CAUSAL_LM");
    json.put("use_dora", false);
    json.put("use_rslora", adapter.rankStabilised);
    return json;
  }

  private <T extends Comparable<T>> T mostFrequent(Function<Layer, T> value) {
    Map<T, Long> counts =
        adapter.layers.values().stream()
            .collect(Collectors.groupingBy(value, TreeMap::new, Collectors.counting()));
    return counts.entrySet().stream().max(Map.Entry.comparingByValue()).orElseThrow().getKey();
  }

  /**
   * Puts the exceptions to a default value, by the last name of layers if all layers with that name
   * agree.
   */
  private void putNumbers(ObjectNode json, Function<Layer, Double> value, double common) {
    Map<String, SortedMap<String, Double>> byName = new TreeMap<>();
    adapter.layers.forEach(
        (path, layer) ->
            byName
                .computeIfAbsent(lastName(path), name -> new TreeMap<>())
                .put(path, value.apply(layer)));
    byName.forEach(
        (name, values) -> {
          SortedSet<Double> distinct = new TreeSet<>(values.values());
          if (distinct.size() == 1 && distinct.first() != common) {
            putNumber(json, name, distinct.first());
          } else if (distinct.size() > 1) {
            values.forEach(
                (path, number) -> {
                  if (number != common) {
                    putNumber(json, path, number);
                  }
                });
          }
        });
  }

  /** Puts a whole number as an integer, because PEFT's ranks are integers. */
  private static void putNumber(ObjectNode json, String key, double value) {
    if (value == Math.rint(value)) {
      json.put(key, (long) value);
    } else {
      json.put(key, value);
    }
  }

  /**
   * Puts the first of these descriptions that chooses exactly what is adapted: last names and
   * blocks; names within a block and blocks; all paths.
   */
  private void putTargets(ObjectNode json) {
    Set<String> paths = adapter.layers.keySet();
    SortedSet<Integer> blocks = new TreeSet<>();
    SortedSet<String> blockNames = new TreeSet<>();
    for (String path : paths) {
      Matcher match = inBlock(path);
      blockNames.add(match.group(1));
      blocks.add(Integer.valueOf(match.group(2)));
    }
    for (UnaryOperator<String> naming :
        List.<UnaryOperator<String>>of(PeftWriter::lastName, p -> inBlock(p).group(3))) {
      SortedSet<String> names = new TreeSet<>(paths.stream().map(naming).toList());
      PeftTargets targets = PeftTargets.of(names, blocks, blockNames.first());
      if (adapter.linear.stream().allMatch(p -> targets.choose(p) == paths.contains(p))) {
        json.put("layers_pattern", blockNames.first());
        blocks.forEach(json.putArray("layers_to_transform")::add);
        names.forEach(json.putArray("target_modules")::add);
        return;
      }
    }
    paths.stream().sorted(Comparator.naturalOrder()).forEach(json.putArray("target_modules")::add);
  }

  private static Matcher inBlock(String path) {
    Matcher match = IN_BLOCK.matcher(path);
    if (!match.matches()) {
      throw new IllegalArgumentException(path + " lies in no block");
    }
    return match;
  }

  private static String lastName(String path) {
    return path.substring(path.lastIndexOf('.') + 1);
  }
}
