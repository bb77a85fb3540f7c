package espalier.report;

import static espalier.report.Written.put;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ReportTest {

  private static final String CE = "Cross-entropy against training time";
  private static final String KL = "KL to the original model";
  private static final String NORM = "Gradient norm, before clipping";
  private static final String STEP =
      """
      {"step":%d,"tokens":%d,"kl":%s,"grad_norm":%s,"lr":5e-5,"step_ms":250.0,"tokens_per_second":%s}
      """;
  private static final String EVALUATION =
      """
      {"step":%d,"seconds":%s,"ce_base":2.5,"ce_sae":3.5,"ce_adapted":%s,"gap_closed":%s,\
      "kl_sae":0.75,"kl_adapted":0.5,"saes":{"14":{"l0":63.25,"fvu":0.21875,\
      "explained_variance":0.78125,"cosine":0.875,"dead":0.125}}}
      """;

  @TempDir Path folder;

  private static String step(int step, String kl, String norm, String speed) {
    return STEP.formatted(step, 1024 * step, kl, norm, speed);
  }

  private static String adapt() {
    return EVALUATION.formatted(0, "0.0", "3.5", "0.0")
        + step(1, "0.123456789012", "7.5", "1000")
        + step(2, "0.0625", "0.5", "4096")
        + step(3, "0.03125", "0.25", "3000")
        + EVALUATION.formatted(3, "0.75", "3.0", "0.5");
  }

  @Test
  void aRunsNumbersAreThoseOfItsFiles() throws IOException {
    put(folder.resolve("run"), "metrics.jsonl", adapt());
    put(
        folder.resolve("run"),
        "run.json",
        """
        {"command": "adapt", "settings": {"rank": 64, "saes": ["14=/sae"], "evalData": null},
         "seed": 42, "versions": {"java": "25"}}
        """);
    Written page = Written.report(folder.resolve("run"));
    assertEquals(
        List.of(List.of(1.0, 0.123456789012), List.of(2.0, 0.0625), List.of(3.0, 0.03125)),
        page.curve(KL, "run"));
    assertEquals(
        List.of(List.of(1.0, 7.5), List.of(2.0, 0.5), List.of(3.0, 0.25)), page.curve(NORM, "run"));
    assertEquals(
        List.of(List.of(1.0, 1000.0), List.of(2.0, 4096.0), List.of(3.0, 3000.0)),
        page.curve("Speed", "run"));
    assertEquals(List.of(List.of(0.0, 3.5), List.of(0.75, 3.0)), page.curve(CE, "run"));
    assertEquals(
        List.of(List.of(0.0, 3.5), List.of(0.75, 3.5)), page.curve(CE, "with SAE, not adapted"));
    assertEquals(List.of(List.of(0.0, 2.5), List.of(0.75, 2.5)), page.curve(CE, "original model"));
    assertEquals(
        List.of("2.5000", "3.5000", "3.0000", "50.0 %", "0.7500", "0.5000", "63.3", "0.219", "0.8"),
        page.row("Results", "run"));
    assertEquals(
        List.of("63.3", "0.219", "0.781", "0.875", "12.5 %"), page.row("SAEs", "run, layer 14"));
    assertEquals(List.of("3", "3,072", "0.8", "3,000"), page.row("Training", "run"));
    for (String setting :
        List.of(
            "command</th><td>adapt",
            "settings.rank</th><td>64",
            "settings.saes</th><td>14=/sae",
            "settings.evalData</th><td>–",
            "seed</th><td>42",
            "versions.java</th><td>25")) {
      assertTrue(page.has("<tr><th>" + setting + "</td></tr>"), setting);
    }
  }

  private static final String ALONE =
      """
      {"step":%d,"seconds":%s,"alone":{\
      "6":{"ce_base":2.5,"ce_sae":%s,"kl_sae":0.5,"saes":{"6":{"l0":32.0,"fvu":0.25,"cosine":0.875}}},\
      "12":{"ce_base":2.5,"ce_sae":%s,"kl_sae":0.75,"saes":{"12":{"l0":31.5,"fvu":0.5,"cosine":0.75}}}}}
      """;

  /** As {@code train-sae} evaluates the SAEs of several layers. */
  @Test
  void saesTrainedTogetherAreShownEachAlone() throws IOException {
    put(
        folder.resolve("run"),
        "metrics.jsonl",
        ALONE.formatted(0, "0.0", "5.5", "6.5")
            + "{\"step\":1,\"tokens\":64,\"fvu\":0.375,\"l0\":31.75,\"step_ms\":2.0}\n"
            + ALONE.formatted(1, "0.002", "3.0", "3.5"));
    Written page = Written.report(folder.resolve("run"));
    assertEquals(List.of("run, layer 6", "run, layer 12", "original model"), page.names(CE));
    assertEquals(List.of(List.of(0.0, 5.5), List.of(0.002, 3.0)), page.curve(CE, "run, layer 6"));
    assertEquals(List.of(List.of(0.0, 6.5), List.of(0.002, 3.5)), page.curve(CE, "run, layer 12"));
    assertEquals(
        List.of("2.5000", "3.0000", "0.5000", "32.0", "0.250", "0.0"),
        page.row("Results", "run, layer 6"));
    assertEquals(
        List.of("2.5000", "3.5000", "0.7500", "31.5", "0.500", "0.0"),
        page.row("Results", "run, layer 12"));
    assertEquals(List.of("31.5", "0.500", "0.750"), page.row("SAEs", "run, layer 12"));
    assertEquals(List.of("1", "64", "0.0"), page.row("Training", "run"));
    assertEquals(List.of("run"), page.names("SAE reconstruction error"));
    assertFalse(page.has("<tr><th>run</th><td>2.5"), "the run itself was not evaluated");
    assertTrue(page.has("each is spliced in alone; the time is that of all."));
  }

  @Test
  void nothingIsLoadedFromElsewhere() throws IOException {
    put(folder, "metrics.jsonl", adapt());
    String html = Written.report(folder).html();
    assertTrue(html.contains("var uPlot="), "the plotting library is in the page");
    assertTrue(html.contains("Permission is hereby granted"), "and so is its licence");
    assertTrue(html.contains("default-src 'none'"), "and the browser is told to load nothing");
    for (String load : List.of("src=", "href=", "@import", "url(", "fetch(", "XMLHttpRequest")) {
      assertFalse(html.contains(load), load);
    }
    assertFalse(html.matches("(?s).*@[A-Z_]+@.*"), "a placeholder is left");
  }

  @Test
  void aDemoShowsItsOwnTableAndThePlotsOfItsParts() throws IOException {
    put(folder, "run.json", "{\"command\": \"demo\"}");
    put(folder, "metrics.jsonl", adapt()); // a copy of the adapter's
    put(folder.resolve("adapter"), "metrics.jsonl", adapt());
    put(
        folder.resolve("sae-topk"),
        "metrics.jsonl",
        """
        {"step":1,"tokens":64,"fvu":0.5,"l0":16.0,"grad_norm":1.5,"lr":1e-3,"step_ms":1.0,"tokens_per_second":64000}
        """);
    put(
        folder.resolve("model"),
        "metrics.jsonl",
        """
        {"step":1,"tokens":64,"ce":5.5,"grad_norm":2.5,"lr":1e-3,"step_ms":1.0,"tokens_per_second":64000}
        {"step":1,"seconds":0.001,"ce_base":5.25}
        """);
    put(folder.resolve("data"), "config.json", "{}");
    put(
        folder,
        "latent_density.json",
        "{\"tokens\": 1000, \"saes\": {\"sae-topk\": [0, 10, 1, 0, 12]}}");
    put(
        folder,
        "results.json",
        """
        {"ce_base": 2.25, "ce_sae": 4.25,
         "rows": [{"name": "TopK + LoRA", "ce_base": 2.25, "ce_sae": 4.25, "ce_adapted": 3.25,
                   "gap_closed": 0.5, "l0": 16.0, "fvu": 0.125, "seconds": 1234.5},
                  {"name": "end to end", "ce_base": 2.25, "ce_sae": 2.5}],
         "curves": [{"name": "adapt", "run": "adapter", "points": [[1.5, 4.25], [2.5, 3.25]]},
                    {"name": "end to end", "points": [[0, 6], [2.5, 2.5]]}],
         "stages": [{"name": "pretrain", "seconds": 61.25}]}
        """);
    Written page = Written.report(folder);
    assertEquals(
        List.of("2.2500", "4.2500", "3.2500", "50.0 %", "16.0", "0.125", "1,234.5"),
        page.row("Results", "TopK + LoRA"));
    assertEquals(
        List.of("2.2500", "2.5000", "–", "–", "–", "–", "–"), page.row("Results", "end to end"));
    assertEquals(List.of("61.3"), page.row("Stages", "pretrain"));
    assertEquals(
        List.of("adapt", "end to end", "with SAE, not adapted", "original model"), page.names(CE));
    assertEquals(List.of(List.of(1.5, 4.25), List.of(2.5, 3.25)), page.curve(CE, "adapt"));
    assertEquals(List.of(List.of(0.0, 2.25), List.of(2.5, 2.25)), page.curve(CE, "original model"));
    assertEquals(List.of("adapter"), page.names(KL), "a demo's copy is not shown twice");
    assertEquals(List.of("adapter", "model", "sae-topk"), page.names(NORM));
    assertEquals(page.colour(KL, "adapter"), page.colour(CE, "adapt"));
    assertEquals(
        List.of("model", "model, evaluation data"), page.names("Cross-entropy in pretraining"));
    assertEquals(
        List.of(List.of(1.0, 5.25)),
        page.curve("Cross-entropy in pretraining", "model, evaluation data"));
    assertEquals(List.of(List.of(1.0, 0.5)), page.curve("SAE reconstruction error", "sae-topk"));
    assertEquals(
        "2 of 5 latents fired on none of 1,000 tokens",
        page.notes().get("Latent density, sae-topk"));
    assertEquals(
        2.0 + 1.0,
        page.curve("Latent density, sae-topk", "latents").stream()
            .mapToDouble(p -> p.get(1))
            .sum());
  }

  @Test
  void onlyWhatIsThereIsShown() throws IOException {
    put(folder, "run.json", "{\"command\": \"adapt\"}");
    put(folder, "metrics.jsonl", "");
    Written page = Written.report(folder);
    assertEquals(Set.of(), page.notes().keySet());
    assertFalse(page.has("<h2>Results"));
    assertFalse(page.has("<h2>Plots"));
    put(folder, "metrics.jsonl", step(1, "0.5", "1.0", "10"));
    page = Written.report(folder);
    assertEquals(Set.of(KL, NORM, "Speed"), page.notes().keySet());
    assertFalse(page.has("<h2>Results"));
    assertTrue(page.has("<h2>Training"));
  }

  @Test
  void whatIsNotFiniteOrHasNoLogarithmIsLeftOut() throws IOException {
    put(
        folder,
        "metrics.jsonl",
        step(1, "0.5", "\"NaN\"", "10")
            + step(2, "0", "1e999", "10")
            + step(3, "-1e-9", "2.0", "10")
            + step(4, "0.25", "\"Infinity\"", "0"));
    Written page = Written.report(folder);
    String run = name(folder);
    assertEquals(List.of(List.of(1.0, 0.5), List.of(4.0, 0.25)), page.curve(KL, run));
    assertEquals(List.of(List.of(3.0, 2.0)), page.curve(NORM, run));
    assertEquals(4, page.curve("Speed", run).size());
  }

  @Test
  void fieldsThatNothingShowsAreNoFault() throws IOException {
    put(folder, "metrics.jsonl", step(1, "0.5", "1", "10").replace("{", "{\"note\":[\"x\"],"));
    assertEquals(List.of(List.of(1.0, 0.5)), Written.report(folder).curve(KL, name(folder)));
  }

  @Test
  void aSingleEvaluationHasReferencesToo() throws IOException {
    put(folder, "metrics.jsonl", EVALUATION.formatted(3, "0.75", "3.0", "0.5"));
    assertEquals(
        List.of(List.of(0.0, 2.5), List.of(0.75, 2.5)),
        Written.report(folder).curve(CE, "original model"));
    put(folder, "metrics.jsonl", EVALUATION.formatted(0, "0.0", "3.5", "0"));
    assertEquals(
        List.of(List.of(0.0, 2.5), List.of(1.0, 2.5)),
        Written.report(folder).curve(CE, "original model"));
  }

  @Test
  void aGapIsNamedOnlyWhereThereIsOne() throws IOException {
    String results =
        """
        {"ce_base": 5.0625, "ce_sae": %s, "rows": [{"name": "a", "gap_closed": 4.5}]}
        """;
    put(folder, "run.json", "{}");
    put(folder, "results.json", results.formatted("5.125"));
    assertTrue(
        Written.report(folder).has("won back, here of that from 5.0625 to 5.1250. It means"));
    put(folder, "results.json", results.formatted("5.03125"));
    assertTrue(Written.report(folder).has("won back. It means nothing where none is lost."));
  }

  @Test
  void textCannotBecomeMarkup() throws IOException {
    String hostile = "</script><script>alert(1)</script><!--&\"@SCRIPT@";
    Path run = folder.resolve("<b>&@UPLOT@");
    put(run, "metrics.jsonl", adapt());
    put(
        run,
        "run.json",
        "{\"command\": \"%1$s\", \"a<i>\": [\"%1$s\"]}".formatted(hostile.replace("\"", "\\\"")));
    put(
        run,
        "results.json",
        """
        {"ce_base": 1, "rows": [{"name": "%1$s"}], "stages": [{"name": "%1$s", "seconds": 1}],
         "curves": [{"name": "%1$s", "points": [[0, 1]]}]}
        """
            .formatted(hostile.replace("\"", "\\\"")));
    put(
        run,
        "latent_density.json",
        "{\"tokens\": 9, \"saes\": {\"%s\": [1]}}".formatted(hostile.replace("\"", "\\\"")));
    Written page = Written.report(run);
    assertFalse(page.has("<script>alert"));
    assertFalse(page.has("<!--"));
    assertFalse(page.has("<b>"));
    assertFalse(page.has("<i>"));
    assertTrue(page.has("<title>&lt;b&gt;&amp;@UPLOT@ – Espalier</title>"));
    assertTrue(
        page.has(
            "<td>&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;!--&amp;&quot;@SCRIPT@</td>"));
    assertEquals(hostile, page.names(CE).getFirst());
  }

  @Test
  void severalRunsAreToldApart() throws IOException {
    Path a = folder.resolve("a/run");
    Path b = folder.resolve("b/run");
    put(a, "metrics.jsonl", adapt());
    put(b, "metrics.jsonl", adapt().replace("\"ce_base\":2.5", "\"ce_base\":2.75"));
    Written page = Written.report(a, b);
    assertEquals(List.of("a/run", "b/run"), page.names(KL));
    assertEquals(
        List.of(
            "a/run",
            "b/run",
            "with SAE, not adapted",
            "original model (a/run)",
            "original model (b/run)"),
        page.names(CE));
    assertEquals("2.7500", page.row("Results", "b/run").getFirst());
    assertNotEquals(page.colour(KL, "a/run"), page.colour(KL, "b/run"));
  }

  @Test
  void aFolderOfRunsShowsThem() throws IOException {
    put(folder.resolve("a"), "metrics.jsonl", adapt());
    put(folder.resolve("b"), "metrics.jsonl", adapt());
    assertEquals(List.of("a", "b"), Written.report(folder).names(KL));
  }

  @Test
  void ofSeveralSaesNoneStandsForAll() throws IOException {
    put(
        folder,
        "metrics.jsonl",
        """
        {"step":1,"seconds":1,"ce_base":2,"saes":{"3":{"l0":10,"fvu":0.25},"9":{"l0":20,"fvu":0.5}}}
        """);
    Written page = Written.report(folder);
    String run = name(folder);
    assertEquals(List.of("2.0000", "1.0"), page.row("Results", run));
    assertEquals(List.of("10.0", "0.250"), page.row("SAEs", run + ", layer 3"));
    assertEquals(List.of("20.0", "0.500"), page.row("SAEs", run + ", layer 9"));
  }

  @Test
  void saesThatShareALayerAreEachAPointThatNoLineJoins() throws IOException {
    String row =
        """
        {"cell": "%s", "arm": "LoRA", "last": true, "layer": %d, "ce_base": 2.5, "ce_sae": %s,
         "ce_adapted": %s, "gap_closed": 0.5}
        """;
    put(
        folder,
        "reproduction.json",
        "{\"experiment\": \"layer\", \"plan\": \"full\", \"missing\": [], \"rows\": ["
            + String.join(
                ",",
                row.formatted("a", 14, "3.5", "3.0"),
                row.formatted("b", 14, "4.5", "3.75"),
                row.formatted("c", 20, "4.0", "3.25"))
            + "]}");
    put(folder, "run.json", "{\"command\": \"reproduce\"}");
    Written page = Written.report(folder);
    String title = "Cross-entropy with SAE";
    String spliced = "with SAE, not adapted";
    assertEquals(List.of(spliced, spliced, "LoRA", "LoRA", "original model"), page.names(title));
    assertEquals(
        Map.of(spliced, Set.of("DOTS"), "LoRA", Set.of("DOTS"), "original model", Set.of("DASHES")),
        page.styles(title));
    assertEquals(
        Set.of(List.of(14.0, 3.0), List.of(14.0, 3.75), List.of(20.0, 3.25)),
        page.points(title, "LoRA"));
    assertEquals(
        Set.of(List.of(14.0, 3.5), List.of(14.0, 4.5), List.of(20.0, 4.0)),
        page.points(title, spliced));
  }

  @Test
  void numbersAreTheSameInEveryCountry() throws IOException {
    put(folder, "metrics.jsonl", adapt());
    String here = Written.report(folder).html();
    Locale before = Locale.getDefault();
    Locale.setDefault(Locale.GERMANY);
    try {
      assertEquals(here, Written.report(folder).html());
    } finally {
      Locale.setDefault(before);
    }
  }

  @Test
  void anEarlierPageIsReplacedAndNothingElseIsLeft() throws IOException {
    put(folder, "metrics.jsonl", adapt());
    put(folder, "report.html", "earlier");
    assertTrue(Written.report(folder).has("</html>"));
    try (Stream<Path> files = Files.list(folder)) {
      assertEquals(
          Set.of("metrics.jsonl", "report.html"),
          files.map(file -> file.getFileName().toString()).collect(Collectors.toSet()));
    }
  }

  private static String name(Path folder) {
    return folder.getFileName().toString();
  }
}
