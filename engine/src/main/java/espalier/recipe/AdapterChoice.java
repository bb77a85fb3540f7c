package espalier.recipe;

import espalier.format.InputException;
import espalier.model.LanguageModel;
import java.util.List;
import java.util.Set;
import java.util.SortedSet;
import java.util.TreeSet;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** What {@code --layers} and {@code --targets} mean for a model. */
final class AdapterChoice {

  private static final Set<String> ATTENTION = Set.of("q_proj", "k_proj", "v_proj", "o_proj");
  private static final Set<String> MLP = Set.of("gate_proj", "up_proj", "down_proj");

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
          "--layers %s: %s is no range of layers 0 to %d".formatted(text, part, layers - 1));
    }
    return IntStream.rangeClosed(from, to);
  }

  /** {@code attn}, {@code mlp}, {@code both}, or the names of linear layers of the model. */
  static Set<String> targets(String text, LanguageModel model) {
    Set<String> known =
        model
            .linearLayers(0)
            .flatMap(group -> group.projections().stream())
            .map(p -> p.path().substring(p.path().lastIndexOf('.') + 1))
            .collect(Collectors.toCollection(TreeSet::new));
    return switch (text) {
      case "both" -> known;
      case "attn" -> ATTENTION;
      case "mlp" -> MLP;
      default -> {
        Set<String> names = new TreeSet<>(List.of(text.split(",", -1)));
        for (String name : names) {
          if (!known.contains(name)) {
            throw new InputException(
                "--targets %s: the model has no layer %s, only %s"
                    .formatted(text, name, String.join(", ", known)));
          }
        }
        yield names;
      }
    };
  }
}
