package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.format.StrictJson;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * A {@code reproduction.json}: the evaluations of an experiment's cells.
 *
 * @param clocked whether seconds are those of a clock, which are comparable across cells
 * @param missing the cells that were not done
 * @param rows one for each evaluation
 */
record Reproduction(
    String experiment, String plan, boolean clocked, List<String> missing, List<JsonNode> rows) {

  static Reproduction read(Path file) {
    StrictJson json = StrictJson.read(file);
    List<JsonNode> rows = new ArrayList<>();
    for (StrictJson row : json.objects("rows")) {
      row.text("cell");
      row.text("arm");
      row.number("ce_base");
      rows.add(row.copy());
    }
    List<String> missing = new ArrayList<>();
    json.raw("missing").forEach(cell -> missing.add(cell.asText()));
    return new Reproduction(
        json.text("experiment"),
        json.text("plan"),
        json.text("time", "").equals("clock"),
        missing,
        rows);
  }

  /** The last evaluation of each cell. */
  List<JsonNode> ends() {
    return rows.stream().filter(row -> row.path("last").asBoolean()).toList();
  }

  /** The last evaluation of each cell with adapters. */
  List<JsonNode> adapted() {
    return ends().stream().filter(row -> row.has("ce_adapted")).toList();
  }
}
