package espalier.format;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Predicate;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Which modules of a model an adapter changes, by the rules of PEFT's {@code
 * check_target_module_exists} (github.com/huggingface/peft, tuners/tuners_utils.py).
 *
 * @param allLinear whether it is every linear layer but the output head
 * @param included by {@code target_modules}
 * @param excluded by {@code exclude_modules}
 * @param paths whole paths in the list of {@code target_modules}, whatever their block
 * @param blocks the numbers of blocks; empty for all
 * @param blockNames what a block's number comes after in a path; empty for anything
 */
record PeftTargets(
    boolean allLinear,
    Predicate<String> included,
    Predicate<String> excluded,
    Set<String> paths,
    Set<Integer> blocks,
    List<String> blockNames) {

  private static final String ALL_LINEAR = "all-linear";

  /**
   * PEFT's choices for the families that Espalier knows, if the configuration makes no choice. The
   * layers of each family are one of these sets.
   */
  private static final Set<String> DEFAULTS =
      Set.of("q_proj", "v_proj", "c_attn", "query_key_value");

  static PeftTargets read(StrictJson config) {
    JsonNode value = config.raw("target_modules");
    Set<Integer> blocks = blocks(config);
    boolean allLinear = value.isTextual() && value.textValue().equalsIgnoreCase(ALL_LINEAR);
    if (value.isTextual() && !blocks.isEmpty()) {
      throw config.fault(
          "layers_to_transform", "is set, which PEFT allows only beside a list of target_modules");
    }
    Predicate<String> included =
        value.isMissingNode() || value.isNull()
            ? suffixes(DEFAULTS)
            : allLinear ? path -> true : modules(config, "target_modules");
    Predicate<String> excluded =
        config.has("exclude_modules") && !isEmpty(config.raw("exclude_modules"))
            ? modules(config, "exclude_modules")
            : path -> false;
    Set<String> paths = value.isArray() ? names(config, "target_modules") : Set.of();
    return new PeftTargets(allLinear, included, excluded, paths, blocks, blockNames(config));
  }

  /** The choice that a list of names and a set of blocks make. */
  static PeftTargets of(Set<String> names, Set<Integer> blocks, String blockName) {
    return new PeftTargets(
        false,
        suffixes(names),
        path -> false,
        names,
        blocks,
        blockName == null ? List.of() : List.of(blockName));
  }

  /** Whether the linear layer at a path is adapted. */
  boolean choose(String path) {
    return !excluded.test(path)
        && included.test(path)
        && (blocks.isEmpty() || paths.contains(path) || blocks.contains(block(path)));
  }

  /** The number of the block that a module lies in; -1 for none. */
  private int block(String path) {
    for (String name : blockNames.isEmpty() ? List.of("[^.]*") : blockNames) {
      String before = blockNames.isEmpty() ? ".*?\\." : "(?:.*?\\.)?";
      Matcher match = Pattern.compile(before + name + "\\.(\\d{1,6})\\.").matcher(path);
      if (match.lookingAt()) {
        return Integer.parseInt(match.group(1));
      }
    }
    return -1;
  }

  private static boolean isEmpty(JsonNode value) {
    return value.isContainerNode() ? value.isEmpty() : value.asText().isEmpty();
  }

  /** Reads a list of names, or a regular expression. */
  private static Predicate<String> modules(StrictJson config, String key) {
    JsonNode value = config.raw(key);
    if (value.isTextual()) {
      return PythonRegex.whole(config, key, value.textValue())::matches;
    }
    return suffixes(names(config, key));
  }

  private static Set<String> names(StrictJson config, String key) {
    Set<String> names = new TreeSet<>();
    for (JsonNode name : config.raw(key)) {
      if (!name.isTextual()) {
        throw config.fault(key, "is not a list of names");
      }
      names.add(name.textValue());
    }
    if (names.isEmpty()) {
      throw config.fault(key, "names no modules");
    }
    return names;
  }

  private static Predicate<String> suffixes(Set<String> names) {
    return path -> names.stream().anyMatch(name -> path.equals(name) || path.endsWith("." + name));
  }

  private static Set<Integer> blocks(StrictJson config) {
    JsonNode value = config.raw("layers_to_transform");
    Set<Integer> blocks = new TreeSet<>();
    if (value.isMissingNode() || value.isNull()) {
      return blocks;
    }
    for (JsonNode block : value.isArray() ? value : List.of(value)) {
      if (!block.isInt()) {
        throw config.fault("layers_to_transform", "is not a list of integers");
      }
      blocks.add(block.intValue());
    }
    return blocks;
  }

  private static List<String> blockNames(StrictJson config) {
    JsonNode value = config.raw("layers_pattern");
    List<String> names = new ArrayList<>();
    if (value.isMissingNode() || value.isNull() || isEmpty(value)) {
      return names;
    }
    for (JsonNode name : value.isArray() ? value : List.of(value)) {
      if (!name.isTextual() || !name.textValue().matches("\\w+(\\.\\w+)*")) {
        throw config.fault("layers_pattern", "is " + name + ", not the name of a module");
      }
      names.add(name.textValue());
    }
    return names;
  }
}
