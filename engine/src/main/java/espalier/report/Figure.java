package espalier.report;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeMap;

/**
 * A plot: curves over a common axis, horizontal lines for reference, or bars.
 *
 * @param logarithmic whether the vertical axis is
 */
record Figure(
    String title,
    String xLabel,
    String yLabel,
    boolean logarithmic,
    boolean bars,
    List<Curve> curves) {

  /**
   * @param points (x, y), ascending in x
   * @param reference drawn dashed, from edge to edge
   */
  record Curve(String name, List<double[]> points, boolean reference) {}

  static Figure lines(String title, String xLabel, String yLabel, boolean logarithmic) {
    return new Figure(title, xLabel, yLabel, logarithmic, false, new ArrayList<>());
  }

  static Figure histogram(String title, String xLabel, String yLabel) {
    return new Figure(title, xLabel, yLabel, false, true, new ArrayList<>());
  }

  /** Adds a curve unless it has no points. */
  void add(String name, List<double[]> points) {
    if (!points.isEmpty()) {
      curves.add(new Curve(name, points, false));
    }
  }

  /** Adds a horizontal line across what is drawn so far. */
  void addReference(String name, double y) {
    double[] range =
        curves.stream()
            .flatMap(curve -> curve.points.stream())
            .mapToDouble(point -> point[0])
            .collect(
                () -> new double[] {Double.MAX_VALUE, -Double.MAX_VALUE},
                (r, x) -> {
                  r[0] = Math.min(r[0], x);
                  r[1] = Math.max(r[1], x);
                },
                (a, b) -> {
                  a[0] = Math.min(a[0], b[0]);
                  a[1] = Math.max(a[1], b[1]);
                });
    curves.add(
        new Curve(name, List.of(new double[] {range[0], y}, new double[] {range[1], y}), true));
  }

  boolean isEmpty() {
    return curves.isEmpty();
  }

  /**
   * As the page's script reads it: one column of x, and one of y for each curve, null where it has
   * no point.
   */
  ObjectNode toJson() {
    TreeMap<Double, Double[]> rows = new TreeMap<>();
    for (int c = 0; c < curves.size(); c++) {
      for (double[] point : curves.get(c).points) {
        rows.computeIfAbsent(point[0], x -> new Double[curves.size()])[c] = point[1];
      }
    }
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("title", title).put("x", xLabel).put("y", yLabel);
    json.put("log", logarithmic).put("bars", bars);
    ArrayNode names = json.putArray("curves");
    curves.forEach(
        curve -> names.addObject().put("name", curve.name).put("reference", curve.reference));
    ArrayNode columns = json.putArray("data");
    rows.keySet().forEach(columns.addArray()::add);
    for (int c = 0; c < curves.size(); c++) {
      ArrayNode column = columns.addArray();
      for (Double[] row : rows.values()) {
        column.add(row[c]);
      }
    }
    return json;
  }
}
