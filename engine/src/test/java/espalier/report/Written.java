package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** A page as a test sees it. */
record Written(String html) {

  private static final Pattern FIGURE =
      Pattern.compile(
          "<figcaption>(.*?)<small>(.*?)</small>.*?<script type=\"application/json\">(.*?)</script>",
          Pattern.DOTALL);
  private static final Pattern ROW = Pattern.compile("<tr><th>(.*?)</th>(.*?)</tr>");
  private static final Pattern CELL = Pattern.compile("<td>(.*?)</td>");

  static Written report(Path... runs) throws IOException {
    Path file = runs[0].resolve("report.html");
    Report.write(List.of(runs), file);
    return new Written(Files.readString(file));
  }

  static void put(Path folder, String name, String text) throws IOException {
    Files.createDirectories(folder);
    Files.writeString(folder.resolve(name), text);
  }

  /** The figures' notes by title. */
  Map<String, String> notes() {
    Map<String, String> notes = new LinkedHashMap<>();
    FIGURE.matcher(html).results().forEach(found -> notes.put(found.group(1), found.group(2)));
    return notes;
  }

  /** A curve as pairs of x and y: points that are there. */
  List<List<Double>> curve(String title, String name) throws IOException {
    return curve(figure(title), names(title).indexOf(name));
  }

  /** The points of all curves of a name. */
  Set<List<Double>> points(String title, String name) throws IOException {
    List<String> names = names(title);
    Set<List<Double>> points = new LinkedHashSet<>();
    for (int c = 0; c < names.size(); c++) {
      if (names.get(c).equals(name)) {
        points.addAll(curve(figure(title), c));
      }
    }
    return points;
  }

  /** In which styles the curves of each name are drawn. */
  Map<String, Set<String>> styles(String title) throws IOException {
    return figure(title)
        .get("curves")
        .valueStream()
        .collect(
            Collectors.groupingBy(
                curve -> curve.get("name").textValue(),
                Collectors.mapping(curve -> curve.get("style").textValue(), Collectors.toSet())));
  }

  private static List<List<Double>> curve(JsonNode figure, int index) {
    JsonNode y = figure.get("data").get(1 + index);
    List<List<Double>> points = new ArrayList<>();
    for (int i = 0; i < y.size(); i++) {
      if (!y.get(i).isNull()) {
        points.add(List.of(figure.get("data").get(0).get(i).doubleValue(), y.get(i).doubleValue()));
      }
    }
    return points;
  }

  List<String> names(String title) throws IOException {
    return figure(title).get("curves").valueStream().map(c -> c.get("name").textValue()).toList();
  }

  String colour(String title, String name) throws IOException {
    return figure(title).get("curves").get(names(title).indexOf(name)).get("colour").textValue();
  }

  private JsonNode figure(String title) throws IOException {
    String json =
        FIGURE
            .matcher(html)
            .results()
            .filter(found -> found.group(1).equals(title))
            .findFirst()
            .orElseThrow(() -> new AssertionError("no figure " + title))
            .group(3);
    return new ObjectMapper().readTree(json);
  }

  /** Cells of the row of a name in the table under a heading. */
  List<String> row(String table, String name) {
    int from = html.indexOf("<h2>" + table + "</h2>");
    String body = html.substring(from, html.indexOf("</table>", from));
    return ROW.matcher(body)
        .results()
        .filter(found -> found.group(1).equals(name))
        .findFirst()
        .map(found -> CELL.matcher(found.group(2)).results().map(Written::first).toList())
        .orElseThrow(() -> new AssertionError("no row " + name + " in " + body));
  }

  private static String first(MatchResult found) {
    return found.group(1);
  }

  boolean has(String text) {
    return html.contains(text);
  }
}
