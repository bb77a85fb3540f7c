package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.List;
import java.util.Locale;
import java.util.stream.Stream;

/** Tables of where the cells of an experiment ended, and of what the ratio of times means. */
final class ReproductionTables {

  /** A column that is shown if any cell has a value for it. */
  private record Shown(String field, String heading, String unit, String format, double factor) {}

  private static final List<Shown> COLUMNS =
      List.of(
          new Shown("sae_percent", "SAE trained", "of its steps", "%.0f %%", 1),
          new Shown("layer", "layer", "of the SAE", "%.0f", 1),
          new Shown("latents", "latents", "", "%,.0f", 1),
          new Shown("l0", "L0", "latents/token", "%.1f", 1),
          new Shown("fvu", "FVU", "of variance", "%.3f", 1),
          new Shown("saes", "SAEs", "", "%.0f", 1),
          new Shown("rank", "rank", "", "%.0f", 1),
          new Shown("adapted_layer", "adapted", "layer", "%.0f", 1),
          new Shown("step", "steps", "", "%,.0f", 1),
          new Shown("ce_base", "CE base", "nats/token", "%.4f", 1),
          new Shown("ce_sae", "CE with SAE", "nats/token", "%.4f", 1),
          new Shown("ce_adapted", "CE adapted", "nats/token", "%.4f", 1),
          new Shown("gap_closed", "gap closed", "of CE", "%.1f %%", 100),
          new Shown("seconds", "training", "s", "%,.1f", 1),
          new Shown("e2e_seconds", "end to end", "s to equal CE", "%,.1f", 1),
          new Shown("ratio", "ratio", "of times", "%.2f", 1));

  private ReproductionTables() {}

  static String of(Reproduction reproduction) {
    List<JsonNode> rows = reproduction.ends();
    List<Shown> columns = COLUMNS.stream().filter(column -> differs(rows, column)).toList();
    StringBuilder html =
        new StringBuilder("<section><h2>Results</h2>\n<table class=\"numbers\">\n");
    html.append("<thead><tr><th></th>");
    for (Shown column : columns) {
      html.append("<th>").append(column.heading);
      html.append("<small>").append(column.unit).append("</small></th>");
    }
    html.append("</tr></thead>\n");
    for (JsonNode row : rows) {
      html.append("<tr><th>").append(Html.text(row.get("cell").asText()));
      html.append("<small>").append(Html.text(row.get("arm").asText())).append("</small></th>");
      for (Shown column : columns) {
        html.append("<td>").append(cell(row, column)).append("</td>");
      }
      html.append("</tr>\n");
    }
    html.append("</table></section>\n");
    return html.append(note(reproduction)).toString();
  }

  /**
   * Whether a column differs between cells. What is the same in all of them is said once, below the
   * table.
   */
  private static boolean differs(List<JsonNode> rows, Shown column) {
    return values(rows, column).distinct().count() > 1 || column.field.equals("ce_sae");
  }

  private static Stream<String> values(List<JsonNode> rows, Shown column) {
    return rows.stream()
        .filter(row -> row.path(column.field).isNumber())
        .map(row -> cell(row, column));
  }

  private static String cell(JsonNode row, Shown column) {
    JsonNode value = row.path(column.field);
    if (!value.isNumber()) {
      return "–";
    }
    String text = String.format(Locale.ROOT, column.format, column.factor * value.doubleValue());
    boolean bound = column.field.equals("ratio") && !row.path("ratio_reached").asBoolean();
    return bound ? "&gt; " + text : text;
  }

  private static String note(Reproduction reproduction) {
    StringBuilder note = new StringBuilder("<p class=\"note\">");
    note.append(Html.text("Plan: " + reproduction.plan() + ". "));
    List<String> same =
        COLUMNS.stream()
            .filter(column -> !differs(reproduction.ends(), column))
            .flatMap(
                column ->
                    values(reproduction.ends(), column)
                        .limit(1)
                        .map(value -> column.heading + " " + value))
            .toList();
    if (!same.isEmpty()) {
      note.append("In all cells: ").append(String.join(", ", same)).append(". ");
    }
    if (!reproduction.missing().isEmpty()) {
      note.append(Html.text("Missing cells: " + String.join(", ", reproduction.missing()) + ". "));
    }
    if (reproduction.ends().stream().anyMatch(row -> row.has("ratio"))) {
      note.append(
          "Ratio: the time after which end-to-end training first comes down to the CE that a cell"
              + " ends at (its curve linear between evaluations), over all the time that the cell"
              + " and its SAE were trained for; &gt; where it never did, with its whole time. ");
    }
    return note.append("Gap closed: the share of the CE lost to the SAE that is won back.</p>\n")
        .toString();
  }
}
