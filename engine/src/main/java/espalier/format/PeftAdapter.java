package espalier.format;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A LoRA adapter as PEFT lays it out: {@code adapter_config.json} and {@code
 * adapter_model.safetensors}. The tensors say which layers are adapted; the configuration must
 * agree with them.
 */
public final class PeftAdapter implements AutoCloseable {

  private static final String CONFIG = "adapter_config.json";
  private static final String WEIGHTS = "adapter_model.safetensors";
  private static final String ALL_LINEAR = "all-linear";
  private static final String PREFIX = "base_model.model.";
  private static final Pattern KEY =
      Pattern.compile(Pattern.quote(PREFIX) + "(.+)\\.lora_([AB])\\.weight");

  /** Initialisations that leave the model's own weights alone, besides true and false. */
  private static final Set<String> INITS = Set.of("gaussian", "eva", "orthogonal");

  /** Where a path names the block. */
  private static final Pattern BLOCK = Pattern.compile("\\.layers\\.(\\d{1,6})\\.");

  /**
   * The two matrices of one layer.
   *
   * @param a {@code [rank, in]}
   * @param b {@code [out, rank]}
   */
  public record Pair(TensorEntry a, TensorEntry b) {}

  private final Safetensors file;
  private final int rank;
  private final double alpha;
  private final double dropout;
  private final boolean rankStabilised;
  private final SortedMap<String, Pair> layers = new TreeMap<>();

  private PeftAdapter(Safetensors file, StrictJson config) {
    this.file = file;
    rank = config.positive("r", 8);
    alpha = config.number("lora_alpha", 8);
    dropout = config.number("lora_dropout", 0);
    rankStabilised = config.flag("use_rslora", false);
    if (dropout < 0 || dropout >= 1) {
      throw config.fault("lora_dropout", "is " + dropout + ", not in [0, 1)");
    }
    readLayers();
    checkAgainst(config);
  }

  public static PeftAdapter open(Path folder) {
    StrictJson config = StrictJson.read(folder.resolve(CONFIG));
    refuseUnsupported(config);
    Safetensors file = Safetensors.open(folder.resolve(WEIGHTS));
    try {
      return new PeftAdapter(file, config);
    } catch (RuntimeException e) {
      file.close();
      throw e;
    }
  }

  public Path file() {
    return file.file();
  }

  public int rank() {
    return rank;
  }

  public double alpha() {
    return alpha;
  }

  public double dropout() {
    return dropout;
  }

  public boolean rankStabilised() {
    return rankStabilised;
  }

  /** The adapted layers by module path, such as {@code model.layers.3.mlp.up_proj}. */
  public SortedMap<String, Pair> layers() {
    return layers;
  }

  @Override
  public void close() {
    file.close();
  }

  /** How PEFT names a layer's matrix in files; {@code matrix} is A or B. */
  public static String key(String path, char matrix) {
    return PREFIX + path + ".lora_" + matrix + ".weight";
  }

  private static void refuseUnsupported(StrictJson config) {
    if (!config.text("peft_type").equals("LORA")) {
      throw config.fault(
          "peft_type", "is " + config.text("peft_type") + ", only LORA is supported");
    }
    if (!config.text("bias", "none").equals("none")) {
      throw config.fault("bias", "is " + config.text("bias") + ", only none is supported");
    }
    for (String flag :
        List.of("use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "use_bdlora")) {
      if (config.flag(flag, false)) {
        throw config.fault(flag, "is true, which is not supported");
      }
    }
    for (String key :
        List.of(
            "modules_to_save",
            "rank_pattern",
            "alpha_pattern",
            "exclude_modules",
            "layer_replication",
            "trainable_token_indices",
            "target_parameters",
            "alora_invocation_tokens",
            "arrow_config",
            "kasa_config",
            "monteclora_config",
            "velora_config")) {
      JsonNode value = config.raw(key);
      if (!value.isMissingNode()
          && !value.isNull()
          && !(value.isContainerNode() && value.isEmpty())) {
        throw config.fault(key, "is set, which is not supported");
      }
    }
    JsonNode init = config.raw("init_lora_weights");
    if (init.isTextual() && !INITS.contains(init.textValue())) {
      throw config.fault(
          "init_lora_weights",
          "is " + init.textValue() + ", which changes the weights of the model, too");
    }
  }

  private void readLayers() {
    Map<String, TensorEntry[]> halves = new TreeMap<>();
    for (TensorEntry entry : file.tensors().values()) {
      Matcher key = KEY.matcher(entry.name());
      if (!key.matches()) {
        throw new InputException(file.file(), "tensor " + entry.name() + " is no LoRA matrix");
      }
      TensorEntry[] pair = halves.computeIfAbsent(key.group(1), path -> new TensorEntry[2]);
      pair[key.group(2).charAt(0) - 'A'] = entry;
    }
    if (halves.isEmpty()) {
      throw new InputException(file.file(), "holds no adapter");
    }
    halves.forEach(
        (path, pair) -> {
          for (char matrix : new char[] {'A', 'B'}) {
            TensorEntry entry = pair[matrix - 'A'];
            if (entry == null) {
              throw new InputException(file.file(), "tensor " + key(path, matrix) + " is missing");
            }
            int rankAxis = matrix == 'A' ? 0 : 1;
            if (entry.shape().length != 2 || entry.shape()[rankAxis] != rank) {
              throw new InputException(
                  file.file(),
                  "tensor %s has shape %s, but r is %d"
                      .formatted(entry.name(), Arrays.toString(entry.shape()), rank));
            }
            entry.expect(entry.shape());
          }
          layers.put(path, new Pair(pair[0], pair[1]));
        });
  }

  /**
   * The file must hold what target_modules and layers_to_transform select, no less and no more:
   * PEFT leaves out the rest of a file without a word, and makes up what it lacks.
   */
  private void checkAgainst(StrictJson config) {
    Set<String> targets = targets(config);
    Set<String> unused = new TreeSet<>(targets);
    for (String path : layers.keySet()) {
      List<String> matching =
          targets.stream().filter(t -> path.equals(t) || path.endsWith("." + t)).toList();
      if (matching.isEmpty() && !targets.contains(ALL_LINEAR)) {
        throw new InputException(
            file.file(), "layer " + path + " is not among target_modules of " + CONFIG);
      }
      unused.removeAll(matching);
    }
    unused.remove(ALL_LINEAR);
    if (!unused.isEmpty()) {
      throw new InputException(
          file.file(),
          "holds no layer %s, which target_modules of %s names"
              .formatted(String.join(", ", unused), CONFIG));
    }
    checkBlocks(config);
  }

  /** PEFT's own choice for Llama where the configuration makes none. */
  private static Set<String> targets(StrictJson config) {
    JsonNode targets = config.raw("target_modules");
    if (targets.isMissingNode() || targets.isNull()) {
      return Set.of("q_proj", "v_proj");
    }
    if (targets.isTextual() && targets.textValue().equals(ALL_LINEAR)) {
      return Set.of(ALL_LINEAR);
    }
    if (targets.isTextual()) {
      throw config.fault("target_modules", "is a regular expression, which is not supported");
    }
    Set<String> names = new TreeSet<>();
    for (JsonNode name : targets) {
      if (!name.isTextual()) {
        throw config.fault("target_modules", "is not a list of names");
      }
      names.add(name.textValue());
    }
    if (names.isEmpty()) {
      throw config.fault("target_modules", "names no modules");
    }
    return names;
  }

  private void checkBlocks(StrictJson config) {
    JsonNode chosen = config.raw("layers_to_transform");
    if (chosen.isMissingNode() || chosen.isNull()) {
      return;
    }
    if (!config.raw("layers_pattern").asText("layers").matches("layers|null|")) {
      throw config.fault("layers_pattern", "is not layers, which is not supported");
    }
    Set<Integer> unused = new TreeSet<>();
    for (JsonNode block : chosen.isArray() ? chosen : List.of(chosen)) {
      if (!block.isInt()) {
        throw config.fault("layers_to_transform", "is not a list of integers");
      }
      unused.add(block.intValue());
    }
    Set<Integer> blocks = Set.copyOf(unused);
    for (String path : layers.keySet()) {
      Matcher block = BLOCK.matcher(path);
      if (!block.find() || !blocks.contains(Integer.valueOf(block.group(1)))) {
        throw new InputException(
            file.file(), "layer " + path + " is not among layers_to_transform of " + CONFIG);
      }
      unused.remove(Integer.valueOf(block.group(1)));
    }
    if (!unused.isEmpty()) {
      throw new InputException(
          file.file(),
          "holds nothing for block %s, which layers_to_transform of %s names"
              .formatted(unused.iterator().next(), CONFIG));
    }
  }

  /**
   * An adapter to be written.
   *
   * @param matrices A and B of each layer by module path: {@code [rank, in]} and {@code [out,
   *     rank]}
   */
  public record Output(
      int rank,
      double alpha,
      double dropout,
      Set<String> targetModules,
      Set<Integer> layers,
      String baseModel,
      SortedMap<String, Tensor[]> matrices) {}

  /** Writes an adapter that PEFT loads unchanged, weights first. */
  public static void write(Path folder, Output adapter) {
    List<Safetensors.Output> tensors = new ArrayList<>();
    adapter.matrices.forEach(
        (path, pair) -> {
          tensors.add(Safetensors.Output.matrix(key(path, 'A'), pair[0]));
          tensors.add(Safetensors.Output.matrix(key(path, 'B'), pair[1]));
        });
    try {
      Files.createDirectories(folder);
    } catch (IOException e) {
      throw new UncheckedIOException(folder + " cannot be made", e);
    }
    Safetensors.write(folder.resolve(WEIGHTS), tensors, Map.of("format", "pt"));
    AtomicFiles.write(folder.resolve(CONFIG), config(adapter));
  }

  private static ObjectNode config(Output adapter) {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.putObject("alpha_pattern");
    json.put("base_model_name_or_path", adapter.baseModel);
    json.put("bias", "none");
    json.putNull("exclude_modules");
    json.put("fan_in_fan_out", false);
    json.put("inference_mode", true);
    json.put("init_lora_weights", true);
    json.put("layers_pattern", "layers");
    adapter.layers.forEach(json.putArray("layers_to_transform")::add);
    if (adapter.alpha == Math.rint(adapter.alpha)) {
      json.put("lora_alpha", (long) adapter.alpha);
    } else {
      json.put("lora_alpha", adapter.alpha);
    }
    json.put("lora_bias", false);
    json.put("lora_dropout", adapter.dropout);
    json.putNull("modules_to_save");
    json.put("peft_type", "LORA");
    json.put("r", adapter.rank);
    json.putObject("rank_pattern");
    json.putNull("revision");
    adapter.targetModules.forEach(json.putArray("target_modules")::add);
    json.put("task_type", "CAUSAL_LM");
    json.put("use_dora", false);
    json.put("use_rslora", false);
    return json;
  }
}
