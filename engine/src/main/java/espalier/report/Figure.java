package espalier.report;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.DoubleSummaryStatistics;
import java.util.List;
import java.util.TreeMap;

/**
 * A plot.
 *
 * @param note shown below the title; may be empty
 * @param xLabel what the horizontal axis shows, and its unit
 * @param doublings whether the horizontal axis is logarithmic, to base 2
 */
record Figure(
    String title,
    String note,
    String xLabel,
    String yLabel,
    Axis axis,
    boolean doublings,
    List<Curve> curves) {

  /** The vertical axis. */
  enum Axis {
    LINEAR,
    FROM_ZERO,
    /** A logarithmic axis. Points that are not positive have no place on it and are left out. */
    LOGARITHMIC,
    /** An axis from zero, with bars instead of curves. */
    BARS
  }

  /** How a curve's points are drawn: LINE joins them, DOTS does not, DASHES is for references. */
  enum Style {
    LINE,
    DASHES,
    DOTS
  }

  /**
   * A curve.
   *
   * @param points ascending in x
   */
  record Curve(String name, String colour, Style style, List<Point> points) {}

  Figure(String title, String note, String xLabel, String yLabel, Axis axis) {
    this(title, note, xLabel, yLabel, axis, false, new ArrayList<>());
  }

  /** The same figure with a horizontal axis on which all doublings have the same length. */
  Figure overDoublings() {
    return new Figure(title, note, xLabel, yLabel, axis, true, curves);
  }

  /** Adds a curve, unless it has no points. */
  void add(Curve curve) {
    List<Point> points =
        axis == Axis.LOGARITHMIC
            ? curve.points.stream().filter(point -> point.y() > 0).toList()
            : curve.points;
    if (!points.isEmpty()) {
      curves.add(new Curve(curve.name, curve.colour, curve.style, points));
    }
  }

  /**
   * Adds a horizontal line across everything that has been added so far; if that is a single point,
   * from zero.
   */
  void addReference(String name, String colour, double y) {
    DoubleSummaryStatistics x =
        curves.stream()
            .flatMap(curve -> curve.points.stream())
            .mapToDouble(Point::x)
            .summaryStatistics();
    double from = x.getMin() < x.getMax() ? x.getMin() : doublings ? x.getMin() / 2 : 0;
    double to = x.getMax() > from ? x.getMax() : from + 1;
    add(new Curve(name, colour, Style.DASHES, List.of(new Point(from, y), new Point(to, y))));
  }

  /**
   * The figure as the page's script reads it. {@code data} has a column of x, and a column of y for
   * each curve, with null where that curve has no point.
   */
  ObjectNode toJson() {
    TreeMap<Double, Double[]> rows = new TreeMap<>();
    for (int c = 0; c < curves.size(); c++) {
      for (Point point : curves.get(c).points) {
        rows.computeIfAbsent(point.x(), x -> new Double[curves.size()])[c] = point.y();
      }
    }
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("x", xLabel).put("y", yLabel).put("axis", axis.name()).put("doublings", doublings);
    ArrayNode described = json.putArray("curves");
    for (Curve curve : curves) {
      described
          .addObject()
          .put("name", curve.name)
          .put("colour", curve.colour)
          .put("style", curve.style.name());
    }
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
