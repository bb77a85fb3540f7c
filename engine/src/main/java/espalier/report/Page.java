package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;

/** The HTML page: tables, figures, and everything they need inlined. */
final class Page {

  private static final String PLOTS = "/META-INF/resources/webjars/uplot/1.6.30/dist/";
  private static final List<String> COLUMNS =
      List.of(
          "ce_base",
          "ce_sae",
          "ce_adapted",
          "gap_closed",
          "kl_sae",
          "kl_adapted",
          "l0",
          "fvu",
          "seconds");
  private static final Map<String, String> HEADINGS =
      Map.of(
          "ce_base", "CE base",
          "ce_sae", "CE with SAE",
          "ce_adapted", "CE adapted",
          "gap_closed", "gap closed",
          "kl_sae", "KL with SAE",
          "kl_adapted", "KL adapted",
          "l0", "L0",
          "fvu", "FVU",
          "seconds", "training, s");

  private final StringBuilder body = new StringBuilder();

  static String of(List<RunData> runs) {
    Page page = new Page();
    String title = String.join(", ", runs.stream().map(RunData::name).toList());
    page.body.append("<h1>").append(escape(title)).append("</h1>\n");
    page.results(runs);
    page.figures(Figures.of(runs));
    runs.forEach(page::settings);
    return resource("/espalier/report/page.html")
        .replace("@TITLE@", escape(title))
        .replace("@STYLE@", resource(PLOTS + "uPlot.min.css"))
        .replace("@PLOTS@", resource(PLOTS + "uPlot.iife.min.js"))
        .replace("@BODY@", page.body);
  }

  /** A row for each result; those of a demo, or the last evaluation of each run. */
  private void results(List<RunData> runs) {
    ArrayNode rows = JsonNodeFactory.instance.arrayNode();
    for (RunData run : runs) {
      if (run.results().isPresent()) {
        run.results().get().path("rows").forEach(rows::add);
      } else {
        run.lastEvaluation().ifPresent(line -> rows.add(flat(run.name(), line)));
      }
    }
    if (rows.isEmpty()) {
      return;
    }
    List<String> columns =
        COLUMNS.stream()
            .filter(key -> rows.valueStream().anyMatch(row -> row.path(key).isNumber()))
            .toList();
    body.append("<table class=results><tr><th></th>");
    columns.forEach(key -> body.append("<th>").append(HEADINGS.get(key)).append("</th>"));
    body.append("</tr>\n");
    for (JsonNode row : rows) {
      body.append("<tr><td>").append(escape(row.path("name").asText())).append("</td>");
      columns.forEach(key -> body.append("<td>").append(cell(key, row.path(key))).append("</td>"));
      body.append("</tr>\n");
    }
    body.append("</table>\n<p class=note>CE and KL in nats per token.</p>\n");
  }

  /** An evaluation line with the figures of its first SAE beside the model's. */
  private static JsonNode flat(String name, JsonNode line) {
    var row = JsonNodeFactory.instance.objectNode().put("name", name);
    COLUMNS.stream().filter(line::has).forEach(key -> row.set(key, line.get(key)));
    line.path("saes").properties().stream()
        .findFirst()
        .ifPresent(
            sae -> {
              row.set("l0", sae.getValue().get("l0"));
              row.set("fvu", sae.getValue().get("fvu"));
            });
    return row;
  }

  private static String cell(String key, JsonNode value) {
    if (!value.isNumber()) {
      return "–";
    }
    double number = value.doubleValue();
    return switch (key) {
      case "gap_closed" -> "%.1f %%".formatted(100 * number);
      case "l0", "seconds" -> "%.1f".formatted(number);
      case "fvu" -> "%.3f".formatted(number);
      default -> "%.4f".formatted(number);
    };
  }

  private void figures(List<Figure> figures) {
    body.append("<div class=figures>\n");
    for (Figure figure : figures) {
      body.append("<figure><figcaption>")
          .append(escape(figure.title()))
          .append("</figcaption><script type=\"application/json\">")
          .append(figure.toJson().toString().replace("<", "\\u003c"))
          .append("</script></figure>\n");
    }
    body.append("</div>\n");
  }

  private void settings(RunData run) {
    run.run()
        .ifPresent(
            json -> {
              body.append("<details><summary>")
                  .append(escape(run.name() + ": " + json.path("command").asText()))
                  .append("</summary><table class=settings>\n");
              settings("", json);
              body.append("</table></details>\n");
            });
    run.parts().forEach(this::settings);
  }

  private void settings(String prefix, JsonNode json) {
    for (Map.Entry<String, JsonNode> entry : json.properties()) {
      if (entry.getValue().isObject()) {
        settings(prefix + entry.getKey() + ".", entry.getValue());
      } else {
        body.append("<tr><td>")
            .append(escape(prefix + entry.getKey()))
            .append("</td><td>")
            .append(escape(entry.getValue().asText(entry.getValue().toString())))
            .append("</td></tr>\n");
      }
    }
  }

  private static String escape(String text) {
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;");
  }

  private static String resource(String name) {
    try (InputStream in = Page.class.getResourceAsStream(name)) {
      if (in == null) {
        throw new IllegalStateException("not on the class path: " + name);
      }
      return new String(in.readAllBytes(), StandardCharsets.UTF_8);
    } catch (IOException e) {
      throw new UncheckedIOException(name + " cannot be read", e);
    }
  }
}
