package espalier.report;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The HTML page: tables, figures, and everything they need inlined. */
final class Page {

  private static final String UPLOT = "/META-INF/resources/webjars/uplot/1.6.30/";
  private static final Pattern PLACEHOLDER = Pattern.compile("@([A-Z_]+)@");

  private Page() {}

  static String of(List<Run> runs) {
    String title = String.join(", ", runs.stream().map(Run::name).toList());
    Tables tables = new Tables(runs);
    Map<String, String> parts =
        Map.of(
            "TITLE", Html.text(title),
            "STYLE", resource("report.css"),
            "RESULTS", tables.resultsHtml(),
            "FIGURES", figures(Figures.of(runs)),
            "DETAILS", tables.detailsHtml(),
            "SETTINGS", SettingsTable.of(runs),
            "UPLOT_LICENSE", resource(UPLOT + "LICENSE"),
            "UPLOT_STYLE", resource(UPLOT + "dist/uPlot.min.css"),
            "UPLOT", resource(UPLOT + "dist/uPlot.iife.min.js"),
            "SCRIPT", resource("report.js"));
    // In one pass: a run may be named like a placeholder.
    return PLACEHOLDER
        .matcher(resource("report.html"))
        .replaceAll(found -> Matcher.quoteReplacement(parts.get(found.group(1))));
  }

  private static String figures(List<Figure> figures) {
    if (figures.isEmpty()) {
      return "";
    }
    StringBuilder html = new StringBuilder("<h2>Plots</h2>\n<div class=\"figures\">\n");
    for (Figure figure : figures) {
      html.append("<figure><figcaption>").append(Html.text(figure.title()));
      html.append("<small>").append(Html.text(figure.note())).append("</small></figcaption>\n");
      html.append("<script type=\"application/json\">").append(Html.json(figure.toJson()));
      html.append("</script></figure>\n");
    }
    return html.append("</div>\n").toString();
  }

  /**
   * Reads a resource of the class path. A name without a slash is that of a resource beside this
   * class.
   */
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
