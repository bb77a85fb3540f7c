package espalier.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** A JSON object for people: a line a value, nested keys joined by dots, numbers to six digits. */
final class Table {

  private record Line(String key, String value) {}

  private Table() {}

  static String of(ObjectNode json) {
    List<Line> lines = new ArrayList<>();
    add("", json, lines);
    int width = lines.stream().mapToInt(line -> line.key.length()).max().orElse(0);
    StringBuilder text = new StringBuilder();
    for (Line line : lines) {
      text.append(("%-" + width + "s  %s%n").formatted(line.key, line.value));
    }
    return text.toString();
  }

  private static void add(String prefix, JsonNode node, List<Line> lines) {
    for (Map.Entry<String, JsonNode> entry : node.properties()) {
      String key = prefix + entry.getKey();
      JsonNode value = entry.getValue();
      if (value.isObject()) {
        add(key + ".", value, lines);
      } else if (value.isFloatingPointNumber()) {
        lines.add(new Line(key, "%.6g".formatted(value.doubleValue())));
      } else {
        lines.add(new Line(key, value.isTextual() ? value.textValue() : value.toString()));
      }
    }
  }
}
