package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.format.StrictJson;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.OptionalDouble;

/**
 * A demo's {@code results.json}.
 *
 * @param ceBase cross-entropy of the original model, nats per token
 * @param ceSae cross-entropy of the model with the SAE that adapters are trained around, before
 *     they are trained
 * @param stages what was done, in this order
 */
record Results(
    OptionalDouble ceBase,
    OptionalDouble ceSae,
    List<Row> rows,
    List<Curve> curves,
    List<Stage> stages) {

  /**
   * A curve of cross-entropy against seconds of training.
   *
   * @param run the folder of the run that the curve shows
   */
  record Curve(String name, Optional<String> run, List<Point> points) {}

  /**
   * A stage of the demo.
   *
   * @param seconds from its start to its end, evaluation included
   */
  record Stage(String name, double seconds) {}

  static Results read(Path file) {
    StrictJson json = StrictJson.read(file);
    return new Results(
        number(json, "ce_base"),
        number(json, "ce_sae"),
        json.objects("rows").stream().map(Row::of).toList(),
        json.objects("curves").stream().map(Results::curve).toList(),
        json.objects("stages").stream()
            .map(stage -> new Stage(stage.text("name"), stage.number("seconds")))
            .toList());
  }

  /** Whether it is known that the SAE raises the cross-entropy. */
  boolean saeCosts() {
    return ceBase.isPresent() && ceSae.isPresent() && ceSae.getAsDouble() > ceBase.getAsDouble();
  }

  private static OptionalDouble number(StrictJson json, String key) {
    return json.has(key) ? OptionalDouble.of(json.number(key)) : OptionalDouble.empty();
  }

  private static Curve curve(StrictJson curve) {
    if (!curve.raw("points").isArray()) {
      throw curve.fault("points", "is not an array");
    }
    List<Point> points = new ArrayList<>();
    for (JsonNode point : curve.raw("points")) {
      if (point.size() != 2
          || !Metrics.isFinite(point.path(0))
          || !Metrics.isFinite(point.path(1))) {
        throw curve.fault("points[" + points.size() + "]", "is not [seconds, CE]");
      }
      points.add(new Point(point.get(0).doubleValue(), point.get(1).doubleValue()));
    }
    Optional<String> run = curve.has("run") ? Optional.of(curve.text("run")) : Optional.empty();
    return new Curve(curve.text("name"), run, points);
  }
}
