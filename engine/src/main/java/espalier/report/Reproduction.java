package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.format.StrictJson;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * A {@code reproduction.json}: the evaluations of an experiment's cells.
 *
 * @param clocked whether seconds are a clock's, the same for all cells
 * @param missing cells that were not done
 * @param rows an evaluation each
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

  /** Where cells ended. */
  List<JsonNode> ends() {
    return rows.stream().filter(row -> row.path("last").asBoolean()).toList();
  }

  /** Where cells with adapters ended. */
  List<JsonNode> adapted() {
    return ends().stream().filter(row -> row.has("ce_adapted")).toList();
  }
}
