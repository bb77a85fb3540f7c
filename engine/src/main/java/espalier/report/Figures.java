package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;

/** The plots that a run's data give. */
final class Figures {

  private static final double BIN = 0.25;

  private Figures() {}

  /** Of several runs side by side; a run with parts is shown by its parts. */
  static List<Figure> of(List<RunData> runs) {
    List<RunData> shown = new ArrayList<>();
    for (RunData run : runs) {
      if (run.parts().isEmpty()) {
        shown.add(run);
      } else {
        shown.addAll(run.parts());
      }
    }
    List<Figure> figures = new ArrayList<>();
    figures.add(crossEntropy(runs, shown));
    figures.add(perStep(shown, "KL per step", "KL, nats per token", "kl", true));
    figures.add(
        perStep(shown, "Gradient norm per step, before clipping", "norm", "grad_norm", true));
    figures.add(perStep(shown, "Cross-entropy in pretraining", "CE, nats per token", "ce", false));
    figures.add(
        perStep(shown, "SAE error per step", "fraction of variance unexplained", "fvu", true));
    figures.add(perStep(shown, "Active latents per step", "L0", "l0", false));
    runs.stream()
        .flatMap(run -> run.density().stream())
        .map(Figures::density)
        .forEach(figures::add);
    figures.add(perStep(shown, "Speed", "tokens per second", "tokens_per_second", false));
    figures.removeIf(Figure::isEmpty);
    return figures;
  }

  private static Figure crossEntropy(List<RunData> runs, List<RunData> shown) {
    Figure figure =
        Figure.lines(
            "Cross-entropy against training time", "training time, s", "CE, nats per token", false);
    Optional<JsonNode> reference = Optional.empty();
    for (RunData run : runs) {
      for (JsonNode curve : run.results().map(r -> r.path("curves")).orElse(emptyArray())) {
        List<double[]> points = new ArrayList<>();
        curve
            .get("points")
            .forEach(
                p -> points.add(new double[] {p.get(0).doubleValue(), p.get(1).doubleValue()}));
        figure.add(curve.get("name").asText(), points);
        reference = run.results();
      }
    }
    if (figure.isEmpty()) {
      for (RunData run : shown) {
        figure.add(run.name() + ", adapted", run.evaluations("ce_adapted"));
        reference = run.lastEvaluation();
      }
    }
    if (!figure.isEmpty() && reference.isPresent()) {
      JsonNode values = reference.get();
      if (values.has("ce_sae")) {
        figure.addReference("with SAE, not adapted", values.get("ce_sae").doubleValue());
      }
      if (values.has("ce_base")) {
        figure.addReference("original model", values.get("ce_base").doubleValue());
      }
    }
    return figure;
  }

  private static JsonNode emptyArray() {
    return JsonNodeFactory.instance.arrayNode();
  }

  private static Figure perStep(
      List<RunData> runs, String title, String yLabel, String field, boolean logarithmic) {
    Figure figure = Figure.lines(title, "step", yLabel, logarithmic);
    runs.forEach(run -> figure.add(run.name(), run.series(field)));
    return figure;
  }

  /**
   * How many latents are active how often; those that never were are counted in the curve's name.
   */
  private static Figure density(JsonNode density) {
    Figure figure =
        Figure.histogram(
            "Latent density", "log10 of the share of tokens a latent is active on", "latents");
    double tokens = density.get("tokens").doubleValue();
    density
        .get("saes")
        .properties()
        .forEach(
            entry -> {
              Map<Double, Integer> bins = new TreeMap<>();
              int dead = 0;
              for (JsonNode count : entry.getValue()) {
                if (count.longValue() == 0) {
                  dead++;
                } else {
                  double bin = Math.floor(Math.log10(count.longValue() / tokens) / BIN) * BIN;
                  bins.merge(bin, 1, Integer::sum);
                }
              }
              List<double[]> points = new ArrayList<>();
              bins.forEach((bin, n) -> points.add(new double[] {bin + BIN / 2, n}));
              figure.add(
                  "%s (%d of %d never active)"
                      .formatted(entry.getKey(), dead, entry.getValue().size()),
                  points);
            });
    return figure;
  }
}
