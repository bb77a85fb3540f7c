package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.EnumSet;
import java.util.List;

/** The results in numbers: the models, the SAEs in them, and what the training took. */
final class Tables {

  private final List<Run> runs;

  Tables(List<Run> runs) {
    this.runs = runs;
  }

  /** The table of the models, which the runs are about. */
  String resultsHtml() {
    StringBuilder reproductions = new StringBuilder();
    for (Run run : runs) {
      run.reproduction().map(ReproductionTables::of).ifPresent(reproductions::append);
    }
    return reproductions + table("Results", results()) + resultsNote();
  }

  String detailsHtml() {
    return "<div class=\"details\">\n"
        + table("SAEs", saes())
        + table("Training", training())
        + table("Stages", stages())
        + "</div>\n";
  }

  /** A demo's own rows; for any other run the row of its last evaluation. */
  private List<Row> results() {
    List<Row> rows = new ArrayList<>();
    for (Run run : runs) {
      String prefix = runs.size() > 1 ? run.name() + ": " : "";
      run.results().stream()
          .flatMap(results -> results.rows().stream())
          .forEach(row -> rows.add(new Row(prefix + row.name(), row.values())));
    }
    for (Run run : Run.withMetrics(runs.stream().filter(r -> r.results().isEmpty()).toList())) {
      run.metrics().lastEvaluation().ifPresent(line -> rows.add(evaluation(run.name(), line)));
    }
    return rows;
  }

  /**
   * The row of an evaluation. Several SAEs have a table of their own, as none stands for all of
   * them.
   */
  private static Row evaluation(String name, JsonNode line) {
    Row row = Row.of(name, line);
    JsonNode saes = line.path("saes");
    if (saes.size() == 1) {
      Row sae = Row.of(name, saes.iterator().next());
      sae.values().keySet().retainAll(EnumSet.of(Column.L0, Column.FVU));
      row.values().putAll(sae.values());
    }
    return row;
  }

  private String resultsNote() {
    List<Row> rows = results();
    if (rows.isEmpty()) {
      return "";
    }
    StringBuilder note = new StringBuilder("<p class=\"note\">Measured on the evaluation data.");
    if (runs.stream().anyMatch(Run::hasSaesAlone)) {
      note.append(
          " Of SAEs that were trained together each is spliced in alone; the time is that of all.");
    }
    if (rows.stream().anyMatch(row -> row.values().containsKey(Column.GAP_CLOSED))) {
      note.append(" Gap closed: the share of the cross-entropy lost to the SAE that is won back");
      if (runs.size() == 1) {
        runs.getFirst()
            .results()
            .filter(Results::saeCosts)
            .ifPresent(
                results ->
                    note.append(", here of that from ")
                        .append(Column.CE_BASE.text(results.ceBase().getAsDouble()))
                        .append(" to ")
                        .append(Column.CE_SAE.text(results.ceSae().getAsDouble())));
      }
      note.append(". It means nothing where none is lost.");
    }
    return note.append("</p>\n").toString();
  }

  private List<Row> saes() {
    List<Row> rows = new ArrayList<>();
    for (Run run : Run.withMetrics(runs)) {
      run.metrics().lastEvaluation().stream()
          .flatMap(line -> line.path("saes").propertyStream())
          .map(sae -> Row.of(run.sae(sae.getKey()), sae.getValue()))
          .forEach(rows::add);
    }
    return rows;
  }

  private List<Row> training() {
    List<Row> rows = new ArrayList<>();
    for (Run run : Run.withMetrics(runs)) {
      List<JsonNode> steps = run.metrics().steps();
      if (!steps.isEmpty()) {
        // The tokens of the last step are all that were seen, its number counts the steps.
        Row row = Row.of(run.name(), steps.getLast());
        row.values().keySet().retainAll(EnumSet.of(Column.TOKENS));
        row.put(Column.STEPS, steps.getLast().get("step").doubleValue());
        List<Point> times = Metrics.points(steps, "step", "step_ms");
        if (!times.isEmpty()) {
          row.put(Column.SECONDS, times.stream().mapToDouble(Point::y).sum() * 1e-3);
        }
        run.metrics()
            .median("tokens_per_second")
            .ifPresent(speed -> row.put(Column.TOKENS_PER_SECOND, speed));
        rows.add(row);
      }
    }
    return rows;
  }

  private List<Row> stages() {
    List<Row> rows = new ArrayList<>();
    for (Run run : runs) {
      String prefix = runs.size() > 1 ? run.name() + ": " : "";
      for (Results.Stage stage : run.results().map(Results::stages).orElse(List.of())) {
        Row row = new Row(prefix + stage.name());
        row.put(Column.STAGE_SECONDS, stage.seconds());
        rows.add(row);
      }
    }
    return rows;
  }

  /** A table with those columns for which any row has a value. */
  private static String table(String title, List<Row> rows) {
    if (rows.isEmpty()) {
      return "";
    }
    List<Column> columns =
        Arrays.stream(Column.values())
            .filter(column -> rows.stream().anyMatch(row -> row.values().containsKey(column)))
            .toList();
    StringBuilder html =
        new StringBuilder("<section><h2>" + title + "</h2>\n<table class=\"numbers\">\n");
    html.append("<thead><tr><th></th>");
    for (Column column : columns) {
      html.append("<th>").append(column.heading);
      html.append("<small>").append(column.unit).append("</small></th>");
    }
    html.append("</tr></thead>\n");
    for (Row row : rows) {
      html.append("<tr><th>").append(Html.text(row.name())).append("</th>");
      for (Column column : columns) {
        Double value = row.values().get(column);
        html.append("<td>").append(value == null ? "–" : column.text(value)).append("</td>");
      }
      html.append("</tr>\n");
    }
    return html.append("</table></section>\n").toString();
  }
}
