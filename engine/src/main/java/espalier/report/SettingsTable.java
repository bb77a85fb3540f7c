package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.format.StrictJson;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * A table of what a run was: every field of its {@code run.json}. Fields in objects are named by
 * their path.
 */
final class SettingsTable {

  private final StringBuilder html = new StringBuilder();

  private SettingsTable() {}

  static String of(List<Run> runs) {
    List<String> tables = new ArrayList<>();
    for (Run run : runs) {
      run.description().ifPresent(json -> tables.add(of(run.name(), json)));
      for (Run part : run.parts()) {
        part.description().ifPresent(json -> tables.add(of(part.name(), json)));
      }
    }
    return tables.isEmpty()
        ? ""
        : "<h2>Settings</h2>\n<div class=\"settings\">\n" + String.join("", tables) + "</div>\n";
  }

  private static String of(String name, StrictJson json) {
    SettingsTable table = new SettingsTable();
    table.html.append("<table><caption>").append(Html.text(name)).append("</caption>\n");
    json.keys().forEach(key -> table.add(key, json.raw(key)));
    return table.html.append("</table>\n").toString();
  }

  private void add(String key, JsonNode value) {
    if (value.isObject()) {
      for (Map.Entry<String, JsonNode> field : value.properties()) {
        add(key + "." + field.getKey(), field.getValue());
      }
      return;
    }
    html.append("<tr><th>").append(Html.text(key));
    html.append("</th><td>").append(Html.text(text(value))).append("</td></tr>\n");
  }

  private static String text(JsonNode value) {
    if (value.isArray() && value.valueStream().allMatch(JsonNode::isValueNode)) {
      return String.join(", ", value.valueStream().map(SettingsTable::text).toList());
    }
    return value.isNull() ? "–" : value.isTextual() ? value.textValue() : value.toString();
  }
}
