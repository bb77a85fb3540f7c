package espalier.format;

import com.fasterxml.jackson.databind.JsonNode;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.function.Consumer;

/**
 * What {@code adapter_config.json} says about a LoRA adapter: which modules it changes, with which
 * rank and scale. Any other setting that would change what the adapter computes is refused by name.
 */
final class PeftConfig {

  static final String FILE = "adapter_config.json";

  /** Initialisations, besides true and false, that leave the model's own weights unchanged. */
  private static final Set<String> INITS = Set.of("gaussian", "eva", "orthogonal");

  private static final List<String> UNSUPPORTED =
      List.of(
          "modules_to_save",
          "layer_replication",
          "trainable_token_indices",
          "target_parameters",
          "alora_invocation_tokens",
          "arrow_config",
          "kasa_config",
          "megatron_config",
          "monteclora_config",
          "use_bdlora",
          "velora_config");

  /** An entry of {@code rank_pattern} or {@code alpha_pattern}. */
  private record Rule(String key, PythonRegex paths, double value) {}

  private final StrictJson json;
  private final PeftTargets targets;
  private final int rank;
  private final double alpha;
  private final double dropout;
  private final boolean rankStabilised;
  private final List<Rule> ranks;
  private final List<Rule> alphas;

  private PeftConfig(StrictJson json) {
    this.json = json;
    targets = PeftTargets.read(json);
    rank = json.positive("r", 8);
    alpha = json.number("lora_alpha", 8);
    dropout = json.number("lora_dropout", 0);
    rankStabilised = json.flag("use_rslora", false);
    ranks = rules("rank_pattern");
    alphas = rules("alpha_pattern");
    if (dropout < 0 || dropout >= 1) {
      throw json.fault("lora_dropout", "is " + dropout + ", not in [0, 1)");
    }
  }

  static PeftConfig read(Path file) {
    StrictJson json = StrictJson.read(file);
    refuseUnsupported(json);
    return new PeftConfig(json);
  }

  PeftTargets targets() {
    return targets;
  }

  double dropout() {
    return dropout;
  }

  boolean rankStabilised() {
    return rankStabilised;
  }

  int rank(String path) {
    return (int) value(ranks, path).orElse((double) rank).doubleValue();
  }

  double alpha(String path) {
    return value(alphas, path).orElse(alpha);
  }

  /**
   * Warns of patterns that fit none of the adapted layers and so change nothing. PEFT warns of
   * them, too.
   */
  void remarkIdlePatterns(Set<String> paths, Consumer<String> warn) {
    List.of(ranks, alphas)
        .forEach(
            list -> {
              for (Rule e : list) {
                if (paths.stream().noneMatch(e.paths::matches)) {
                  warn.accept(json.remark(e.key, "fits no layer that the adapter changes"));
                }
              }
            });
  }

  /** The value of the first entry that fits. */
  private static Optional<Double> value(List<Rule> rules, String path) {
    return rules.stream().filter(e -> e.paths.matches(path)).findFirst().map(Rule::value);
  }

  private List<Rule> rules(String key) {
    List<Rule> rules = new ArrayList<>();
    json.object(key)
        .ifPresent(
            patterns -> {
              for (String pattern : patterns.keys()) {
                double value =
                    key.equals("rank_pattern")
                        ? patterns.positive(pattern)
                        : patterns.number(pattern);
                String name = key + "." + pattern;
                rules.add(new Rule(name, PythonRegex.suffix(json, name, pattern), value));
              }
            });
    return rules;
  }

  private static void refuseUnsupported(StrictJson json) {
    if (!json.text("peft_type").equals("LORA")) {
      throw json.fault("peft_type", "is " + json.text("peft_type") + ", only LORA is supported");
    }
    if (!json.text("bias", "none").equals("none")) {
      throw json.fault("bias", "is " + json.text("bias") + ", only none is supported");
    }
    for (String key : json.keys()) {
      // PEFT names its variants of LoRA so: use_dora, use_qalora and what is to come.
      boolean variant =
          key.startsWith("use_") && !key.equals("use_rslora") || key.equals("lora_bias");
      if (variant && json.raw(key).asBoolean()) {
        throw json.fault(key, "is true, which is not supported");
      }
    }
    json.flag("fan_in_fan_out", false); // says how the model stores its weights: it knows itself
    for (String key : UNSUPPORTED) {
      JsonNode value = json.raw(key);
      boolean empty =
          value.isContainerNode() ? value.isEmpty() : value.isBoolean() && !value.asBoolean();
      if (json.has(key) && !empty) {
        throw json.fault(key, "is set, which is not supported");
      }
    }
    JsonNode init = json.raw("init_lora_weights");
    if (init.isTextual() && !INITS.contains(init.textValue())) {
      throw json.fault(
          "init_lora_weights",
          "is " + init.textValue() + ", which changes the weights of the model, too");
    }
  }
}
