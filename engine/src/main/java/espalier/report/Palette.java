package espalier.report;

import java.util.ArrayList;
import java.util.List;

/** Gives a run the same colour in every plot of a page. */
final class Palette {

  /** The colour of lines that stand for no run. */
  static final String ORIGINAL = "#222222";

  static final String WITH_SAE = "#8c8c8c";

  /**
   * Colours that most colour-blind readers can tell apart: those of Okabe and Ito in their order,
   * darkened.
   */
  private static final List<String> COLOURS =
      List.of(
          "#0b6fb5", "#d1572b", "#2e8b57", "#8a55ad", "#b07f00", "#128b93", "#c04f86", "#5f6c76");

  private final List<String> names = new ArrayList<>();

  String of(String name) {
    if (!names.contains(name)) {
      names.add(name);
    }
    return COLOURS.get(names.indexOf(name) % COLOURS.size());
  }
}
