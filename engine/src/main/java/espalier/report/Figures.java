package espalier.report;

import espalier.report.Figure.Axis;
import espalier.report.Figure.Curve;
import espalier.report.Figure.Style;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/** The plots that the data of runs give. Each plot shows the runs side by side. */
final class Figures {

  private final Palette palette = new Palette();
  private final List<Run> runs;
  private final List<Figure> figures = new ArrayList<>();

  private Figures(List<Run> runs) {
    this.runs = Run.withMetrics(runs);
    this.runs.forEach(run -> palette.of(run.name()));
  }

  /** The figures that have anything to show. */
  static List<Figure> of(List<Run> runs) {
    Figures all = new Figures(runs);
    for (Run run : runs) {
      run.reproduction().ifPresent(r -> all.figures.addAll(ReproductionFigures.of(r)));
    }
    all.figures.add(CrossEntropyFigure.of(runs, all.palette));
    all.perStep("KL to the original model", "KL, nats per token", "kl", Axis.LOGARITHMIC);
    all.perStep("Gradient norm, before clipping", "gradient norm", "grad_norm", Axis.LOGARITHMIC);
    all.pretraining();
    all.perStep("SAE reconstruction error", "FVU", "fvu", Axis.LOGARITHMIC);
    all.perStep("Active latents", "L0, latents per token", "l0", Axis.FROM_ZERO);
    all.perStep("Speed", "tokens per second", "tokens_per_second", Axis.FROM_ZERO);
    all.figures.addAll(DetailFigures.of(all.runs, all.palette));
    for (Run run : runs) {
      all.density(run, "");
      run.parts().forEach(part -> all.density(part, part.name() + ": "));
    }
    all.figures.removeIf(figure -> figure.curves().isEmpty());
    return all.figures;
  }

  private Figure perStep(String title, String yLabel, String field, Axis axis) {
    Figure figure = new Figure(title, "", "step", yLabel, axis);
    for (Run run : runs) {
      List<Point> points = Metrics.points(run.metrics().steps(), "step", field);
      figure.add(new Curve(run.name(), palette.of(run.name()), Style.LINE, points));
    }
    figures.add(figure);
    return figure;
  }

  /** Adds what the model itself learns, on its training text and on the evaluation data. */
  private void pretraining() {
    Figure figure =
        perStep("Cross-entropy in pretraining", "CE, nats per token", "ce", Axis.LINEAR);
    for (Run run : runs) {
      if (run.metrics().steps().stream().anyMatch(step -> step.has("ce"))) {
        List<Point> evaluated = Metrics.points(run.metrics().evaluations(), "step", "ce_base");
        figure.add(
            new Curve(
                run.name() + ", evaluation data", palette.of(run.name()), Style.DOTS, evaluated));
      }
    }
  }

  private void density(Run run, String prefix) {
    run.density()
        .ifPresent(
            density ->
                density
                    .firings()
                    .forEach((sae, firings) -> histogram(prefix + sae, firings, density.tokens())));
  }

  private void histogram(String sae, long[] firings, long tokens) {
    LatentHistogram histogram = LatentHistogram.of(firings, tokens);
    Figure figure =
        new Figure(
            "Latent density, " + (sae.matches("\\d+") ? "layer " + sae : sae),
            String.format(
                Locale.ROOT,
                "%,d of %,d latents fired on none of %,d tokens",
                histogram.dead(),
                histogram.latents(),
                tokens),
            "log10 of firing frequency, share of tokens",
            "latents",
            Axis.BARS);
    List<Point> bars =
        histogram.bins().stream()
            .map(bin -> new Point(bin.from() + LatentHistogram.WIDTH / 2, bin.latents()))
            .toList();
    figure.add(new Curve("latents", palette.of(sae), Style.LINE, bars));
    figures.add(figure);
  }
}
