package espalier.recipe;

import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.model.LanguageModel;
import java.util.List;
import java.util.Set;
import java.util.SortedSet;
import java.util.TreeSet;
import java.util.function.Predicate;
import java.util.stream.IntStream;

/** What {@code --layers} and {@code --targets} mean for a model. */
final class AdapterChoice {

  private AdapterChoice() {}

  /**
   * {@code after} (the blocks behind the first SAE), {@code all}, or numbers and ranges such as
   * {@code 3,5-9}.
   */
  static SortedSet<Integer> layers(String text, List<SaeSpec> saes, int layers) {
    SortedSet<Integer> chosen = new TreeSet<>();
    switch (text) {
      case "all" -> IntStream.range(0, layers).forEach(chosen::add);
      case "after" -> {
        int first = saes.stream().mapToInt(SaeSpec::layer).min().orElseThrow();
        IntStream.range(first + 1, layers).forEach(chosen::add);
      }
      default -> {
        for (String part : text.split(",", -1)) {
          range(text, part, layers).forEach(chosen::add);
        }
      }
    }
    if (chosen.isEmpty()) {
      throw new InputException("--layers " + text + ": there is no block behind the SAE to adapt");
    }
    return chosen;
  }

  private static IntStream range(String text, String part, int layers) {
    if (!part.matches("\\d{1,6}(-\\d{1,6})?")) {
      throw new InputException(
          "--layers " + text + ": expected after, all, or numbers and ranges such as 3,5-9");
    }
    String[] ends = part.split("-");
    int from = Integer.parseInt(ends[0]);
    int to = Integer.parseInt(ends[ends.length - 1]);
    if (from > to || to >= layers) {
      throw new InputException(
          "--layers %s: %s is not within the model's layers, 0 to %d"
              .formatted(text, part, layers - 1));
    }
    return IntStream.rangeClosed(from, to);
  }

  /**
   * The linear layers of blocks that are adapted, by path.
   *
   * @param targets {@code both} or {@code all-linear}, {@code attn}, {@code mlp}, or names that
   *     paths end with, such as {@code q_proj,up_proj} or {@code attn.c_proj}
   */
  static SortedSet<String> paths(String targets, Set<Integer> layers, ModelConfig config) {
    List<String> paths =
        layers.stream().flatMap(layer -> LanguageModel.linearPaths(config, layer)).toList();
    return switch (targets) {
      case "both", "all-linear" -> new TreeSet<>(paths);
      case "attn" -> where(paths, path -> !path.contains(".mlp."));
      case "mlp" -> where(paths, path -> path.contains(".mlp."));
      default -> {
        SortedSet<String> chosen = new TreeSet<>();
        for (String name : targets.split(",", -1)) {
          SortedSet<String> named = where(paths, path -> path.endsWith("." + name));
          if (named.isEmpty()) {
            throw new InputException(
                "--targets %s: the model has no layer %s, only %s"
                    .formatted(targets, name, String.join(", ", lastNames(paths))));
          }
          chosen.addAll(named);
        }
        yield chosen;
      }
    };
  }

  private static SortedSet<String> where(List<String> paths, Predicate<String> chosen) {
    return new TreeSet<>(paths.stream().filter(chosen).toList());
  }

  private static SortedSet<String> lastNames(List<String> paths) {
    return new TreeSet<>(
        paths.stream().map(path -> path.substring(path.lastIndexOf('.') + 1)).toList());
  }
}
