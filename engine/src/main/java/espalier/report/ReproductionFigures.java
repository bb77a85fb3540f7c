package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.report.Figure.Axis;
import espalier.report.Figure.Curve;
import espalier.report.Figure.Style;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The plots of an experiment, like those in the paper. */
final class ReproductionFigures {

  private static final String GAP = "gap closed, % of CE";
  private static final String CE = "CE, nats per token";

  private final Reproduction reproduction;
  private final Palette palette = new Palette();
  private final List<Figure> figures = new ArrayList<>();

  private ReproductionFigures(Reproduction reproduction) {
    this.reproduction = reproduction;
  }

  static List<Figure> of(Reproduction reproduction) {
    ReproductionFigures of = new ReproductionFigures(reproduction);
    switch (reproduction.experiment()) {
      case "timing" -> {
        of.crossEntropyInTime();
        of.ratios();
      }
      case "baselines" -> of.crossEntropyInTime();
      case "sparsity" -> of.against("l0", "L0, active latents per token", true);
      case "width" -> of.against("latents", "latents of the SAE", true);
      case "layer" -> of.against("layer", "layer of the SAE", false);
      case "rank" -> of.against("rank", "rank of the adapters", true);
      case "per-layer" -> of.perLayer();
      case "multi-sae" -> of.against("saes", "SAEs in the model", false);
      default -> {}
    }
    of.figures.removeIf(figure -> figure.curves().isEmpty());
    return of.figures;
  }

  /**
   * The paper's figure 1: the curves of SAEs during their training, and of adapters that branch off
   * from them.
   */
  private void crossEntropyInTime() {
    Figure figure =
        new Figure(
            "Cross-entropy against training time",
            reproduction.clocked()
                ? "time: steps, times what a step takes on one machine, arms measured in turn"
                : "time: as measured in each cell",
            "training time, s",
            CE,
            Axis.LINEAR);
    Map<String, List<JsonNode>> cells = new LinkedHashMap<>();
    for (JsonNode row : reproduction.rows()) {
      cells.computeIfAbsent(row.get("cell").asText(), c -> new ArrayList<>()).add(row);
    }
    for (List<JsonNode> rows : cells.values()) {
      JsonNode first = rows.getFirst();
      String arm = first.get("arm").asText();
      boolean adapted = first.has("ce_adapted");
      figure.add(
          new Curve(
              arm,
              palette.of(arm),
              Style.LINE,
              points(
                  adapted ? rows : trained(rows), "seconds", adapted ? "ce_adapted" : "ce_sae")));
    }
    original(figure);
    figures.add(figure);
  }

  /** The rows without that of the untrained SAE, which would stretch the axis far up. */
  private static List<JsonNode> trained(List<JsonNode> rows) {
    return rows.stream().filter(row -> row.path("step").asLong() > 0).toList();
  }

  private void ratios() {
    Figure figure =
        new Figure(
            "Time to equal cross-entropy, end to end over TopK and LoRA",
            "open: end-to-end training never came there, its whole time is a lower bound",
            "share of the SAE's training before LoRA, %",
            "ratio of times",
            Axis.FROM_ZERO);
    for (boolean reached : List.of(true, false)) {
      List<JsonNode> rows =
          reproduction.adapted().stream()
              .filter(row -> row.has("ratio") && row.path("ratio_reached").asBoolean() == reached)
              .toList();
      String name = reached ? "reached" : "lower bound";
      Style style = reached ? Style.LINE : Style.DOTS;
      figure.add(new Curve(name, palette.of(name), style, points(rows, "sae_percent", "ratio")));
    }
    figures.add(figure);
  }

  /** Adds what adapters win back, and the cross-entropies behind it, against one coordinate. */
  private void against(String field, String label, boolean logarithmic) {
    Figure gap = figure("Gap closed", label, GAP, Axis.FROM_ZERO, logarithmic);
    Figure ce = figure("Cross-entropy with SAE", label, CE, Axis.LINEAR, logarithmic);
    Map<String, List<JsonNode>> arms = arms();
    // All arms share the SAEs, so their cost is one curve.
    add(
        ce,
        "with SAE, not adapted",
        Palette.WITH_SAE,
        distinct(points(reproduction.adapted(), field, "ce_sae")));
    arms.forEach(
        (arm, rows) -> {
          add(gap, arm, palette.of(arm), percent(rows, field));
          add(ce, arm, palette.of(arm), points(rows, field, "ce_adapted"));
        });
    original(ce);
    figures.add(gap);
    figures.add(ce);
  }

  /**
   * Adds what one arm came to. SAEs that were given may share an x: two in one layer, or of one
   * width. Then no line joins the points, since it would lead from one thing to another; those that
   * share an x go to several curves of one name.
   */
  private static void add(Figure figure, String name, String colour, List<Point> points) {
    List<List<Point>> curves = new ArrayList<>();
    int sharing = 0;
    for (int i = 0; i < points.size(); i++) {
      sharing = i > 0 && points.get(i).x() == points.get(i - 1).x() ? sharing + 1 : 0;
      if (sharing == curves.size()) {
        curves.add(new ArrayList<>());
      }
      curves.get(sharing).add(points.get(i));
    }
    Style style = curves.size() > 1 ? Style.DOTS : Style.LINE;
    curves.forEach(curve -> figure.add(new Curve(name, colour, style, curve)));
  }

  private void perLayer() {
    Figure gap =
        figure("Gap closed by adapters in one layer", "adapted layer", GAP, Axis.FROM_ZERO, false);
    arms()
        .forEach(
            (arm, rows) -> {
              List<Point> points = percent(rows, "adapted_layer");
              gap.add(new Curve(arm, palette.of(arm), Style.LINE, points));
            });
    for (JsonNode row : reproduction.adapted()) {
      if (!row.has("adapted_layer") && row.has("gap_closed") && !gap.curves().isEmpty()) {
        String arm = row.get("arm").asText();
        gap.addReference(arm, palette.of(arm), 100 * row.get("gap_closed").asDouble());
      }
    }
    figures.add(gap);
  }

  private Map<String, List<JsonNode>> arms() {
    Map<String, List<JsonNode>> arms = new LinkedHashMap<>();
    for (JsonNode row : reproduction.adapted()) {
      arms.computeIfAbsent(row.get("arm").asText(), a -> new ArrayList<>()).add(row);
    }
    return arms;
  }

  private static Figure figure(
      String title, String xLabel, String yLabel, Axis axis, boolean logarithmic) {
    Figure figure = new Figure(title, "at the end of each cell", xLabel, yLabel, axis);
    return logarithmic ? figure.overDoublings() : figure;
  }

  private void original(Figure figure) {
    if (!reproduction.rows().isEmpty() && !figure.curves().isEmpty()) {
      double ce = reproduction.rows().getFirst().get("ce_base").doubleValue();
      figure.addReference("original model", Palette.ORIGINAL, ce);
    }
  }

  private static List<Point> percent(List<JsonNode> rows, String x) {
    return points(rows, x, "gap_closed").stream().map(p -> new Point(p.x(), 100 * p.y())).toList();
  }

  private static List<Point> points(List<JsonNode> rows, String x, String y) {
    return Metrics.points(rows, x, y).stream()
        .sorted(Comparator.comparingDouble(Point::x))
        .toList();
  }

  private static List<Point> distinct(List<Point> points) {
    return points.stream().distinct().toList();
  }
}
