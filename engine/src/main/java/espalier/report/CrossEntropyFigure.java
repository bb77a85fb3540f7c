package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.report.Figure.Curve;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Cross-entropy on the evaluation data against training time, with lines for the original model and
 * for the spliced one.
 */
final class CrossEntropyFigure {

  private final Palette palette;
  private final Figure figure =
      new Figure(
          "Cross-entropy against training time",
          "on the evaluation data; measuring it counts as no training time",
          "training time, s",
          "CE, nats per token",
          Figure.Axis.LINEAR);
  private final Map<Double, String> original = new LinkedHashMap<>();
  private final Map<Double, String> spliced = new LinkedHashMap<>();

  private CrossEntropyFigure(Palette palette) {
    this.palette = palette;
  }

  static Figure of(List<Run> runs, Palette palette) {
    CrossEntropyFigure of = new CrossEntropyFigure(palette);
    for (Run run : runs) {
      String prefix = runs.size() > 1 ? run.name() + "/" : "";
      run.results().ifPresent(results -> of.results(prefix, results));
    }
    Run.withMetrics(runs.stream().filter(run -> run.results().isEmpty()).toList())
        .forEach(of::evaluations);
    if (!of.figure.curves().isEmpty()) {
      of.references(of.spliced, "with SAE, not adapted", Palette.WITH_SAE);
      of.references(of.original, "original model", Palette.ORIGINAL);
    }
    return of.figure;
  }

  private void results(String prefix, Results results) {
    for (Results.Curve curve : results.curves()) {
      String colour = palette.of(prefix + curve.run().orElse(curve.name()));
      figure.add(new Curve(prefix + curve.name(), colour, Figure.Style.LINE, curve.points()));
    }
    String name = prefix.isEmpty() ? "" : " (" + prefix.substring(0, prefix.length() - 1) + ")";
    results.ceBase().ifPresent(ce -> original.putIfAbsent(ce, name));
    results.ceSae().ifPresent(ce -> spliced.putIfAbsent(ce, name));
  }

  /**
   * Adds the evaluations of adapters if the run has any, otherwise those of the SAE in training.
   */
  private void evaluations(Run run) {
    List<JsonNode> lines = run.metrics().evaluations();
    boolean adapted = lines.stream().anyMatch(line -> line.has("ce_adapted"));
    List<Point> points = Metrics.points(lines, "seconds", adapted ? "ce_adapted" : "ce_sae");
    if (points.isEmpty()) {
      return;
    }
    figure.add(new Curve(run.name(), palette.of(run.name()), Figure.Style.LINE, points));
    String name = " (" + run.name() + ")";
    Metrics.points(lines, "step", "ce_base").forEach(p -> original.putIfAbsent(p.y(), name));
    if (adapted) {
      Metrics.points(lines, "step", "ce_sae").forEach(p -> spliced.putIfAbsent(p.y(), name));
    }
  }

  /**
   * Adds horizontal lines. Runs on the same model and text share a line, which then needs no run's
   * name.
   */
  private void references(Map<Double, String> lines, String name, String colour) {
    lines.forEach(
        (ce, run) -> figure.addReference(name + (lines.size() > 1 ? run : ""), colour, ce));
  }
}
