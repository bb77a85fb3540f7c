package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.report.Figure.Axis;
import espalier.report.Figure.Curve;
import espalier.report.Figure.Style;
import java.util.ArrayList;
import java.util.List;

/**
 * What an evaluation with all metrics says about single tokens and about activations, for the model
 * with SAEs and for the adapted one.
 */
final class DetailFigures {

  static final String TOKENS = "token_loss_differences";
  static final String ACTIVATIONS = "activation_distance";

  private final Palette palette;
  private final Figure tokens =
      new Figure(
          "Loss of single tokens, difference to the original model",
          "BOS, EOS and first tokens left out",
          "log10 of the absolute difference of CE, nats",
          "share of the tokens",
          Axis.FROM_ZERO);
  private final Figure distance =
      new Figure(
          "Activations, distance to the original model's",
          "after each block, SAE included; mean over the sequences, BOS and EOS left out",
          "block",
          "L2 distance",
          Axis.FROM_ZERO);
  private final Figure cosine =
      new Figure(
          "Activations, direction against the original model's",
          "after each block, SAE included; mean over the sequences, BOS and EOS left out",
          "block",
          "cosine",
          Axis.LINEAR);

  private DetailFigures(Palette palette) {
    this.palette = palette;
  }

  static List<Figure> of(List<Run> runs, Palette palette) {
    DetailFigures figures = new DetailFigures(palette);
    for (Run run : runs) {
      run.metrics().lastEvaluation().ifPresent(line -> figures.add(run.name(), line));
    }
    return List.of(figures.tokens, figures.distance, figures.cosine);
  }

  private void add(String run, JsonNode evaluation) {
    for (String variant : List.of("sae", "adapted")) {
      if (!evaluation.path(TOKENS).has(variant)) {
        continue;
      }
      String name = run + (variant.equals("sae") ? ", with SAEs" : ", adapted");
      String colour = palette.of(name);
      JsonNode histogram = evaluation.path(TOKENS).path(variant);
      tokens.add(new Curve(name, colour, Style.LINE, shares(histogram)));
      JsonNode layers = evaluation.path(ACTIVATIONS).path(variant);
      List<JsonNode> lines = new ArrayList<>();
      layers.forEach(lines::add);
      distance.add(new Curve(name, colour, Style.LINE, Metrics.points(lines, "layer", "l2")));
      cosine.add(new Curve(name, colour, Style.LINE, Metrics.points(lines, "layer", "cosine")));
    }
  }

  /** The share of each bin, as a point in the middle of the bin. */
  private static List<Point> shares(JsonNode differences) {
    double all = differences.path("tokens").doubleValue();
    JsonNode histogram = differences.path("histogram_absolute");
    JsonNode edges = histogram.path("log10_edges");
    List<Point> points = new ArrayList<>();
    for (int i = 0; i + 1 < edges.size() && all > 0; i++) {
      double middle = (edges.get(i).doubleValue() + edges.get(i + 1).doubleValue()) / 2;
      points.add(new Point(middle, histogram.path("counts").path(i).doubleValue() / all));
    }
    return points;
  }
}
