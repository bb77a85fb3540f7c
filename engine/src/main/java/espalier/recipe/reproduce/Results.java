package espalier.recipe.reproduce;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.AtomicFiles;
import espalier.format.StrictJson;
import espalier.recipe.reproduce.TimeToEqual.At;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * The results of the cells that are done: {@code results.csv}, with a line for each evaluation, and
 * {@code reproduction.json}, which holds the same for the report.
 */
final class Results {

  static final List<String> COLUMNS =
      List.of(
          "experiment",
          "cell",
          "arm",
          "layer",
          "latents",
          "k",
          "rank",
          "adapted_layer",
          "saes",
          "sae_percent",
          "last",
          "step",
          "tokens",
          "seconds",
          "seconds_measured",
          "ce_base",
          "ce_sae",
          "ce_adapted",
          "gap_closed",
          "kl_sae",
          "kl_adapted",
          "l0",
          "fvu",
          "e2e_seconds",
          "ratio",
          "ratio_reached",
          "git_revision");

  private final Setup setup;
  private final Plan plan;
  private final List<Cell> cells;
  private final Folders folders;
  private final Map<String, Double> stepSeconds = new TreeMap<>();
  private final ArrayNode rows = JsonNodeFactory.instance.arrayNode();
  private final List<String> missing = new ArrayList<>();

  private Results(Setup setup, Plan plan, List<Cell> cells, Folders folders) {
    this.setup = setup;
    this.plan = plan;
    this.cells = cells;
    this.folders = folders;
  }

  /** Gathers the results and writes both files. Returns the names of the missing cells. */
  static List<String> write(Setup setup, Plan plan, List<Cell> cells, Folders folders) {
    Results results = new Results(setup, plan, cells, folders);
    results.gather();
    AtomicFiles.write(folders.out().resolve("results.csv"), results.csv());
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("experiment", setup.experiment().label());
    json.put("plan", plan.toString());
    json.put("time", results.stepSeconds.isEmpty() ? "measured" : "clock");
    results.missing.forEach(json.putArray("missing")::add);
    json.set("rows", results.rows);
    AtomicFiles.write(folders.out().resolve("reproduction.json"), json);
    return results.missing;
  }

  private void gather() {
    for (Cell cell : cells) {
      if (!Files.exists(folders.result(cell.name()))) {
        missing.add(cell.name());
      } else if (cell.task() instanceof Task.Clock) {
        StrictJson arms = StrictJson.read(folders.result(cell.name())).object("arms").orElseThrow();
        arms.keys()
            .forEach(arm -> stepSeconds.put(arm, arms.raw(arm).get("step_ms").asDouble() * 1e-3));
      }
    }
    for (Cell cell : cells) {
      boolean trains = cell.task() instanceof Task.TrainSae || cell.task() instanceof Task.Adapt;
      if (trains && !missing.contains(cell.name())) {
        add(cell);
      }
    }
    if (!stepSeconds.isEmpty()) {
      compareTimes();
    }
  }

  private void add(Cell cell) {
    StrictJson result = StrictJson.read(folders.result(cell.name()));
    List<JsonNode> lines = MetricsFile.evaluations(folders.run(cell.name()));
    List<JsonNode> steps = MetricsFile.steps(folders.run(cell.name()));
    for (JsonNode line : lines) {
      ObjectNode row = rows.addObject();
      row.put("experiment", setup.experiment().label());
      row.put("cell", cell.name());
      row.put("arm", cell.arm());
      row.setAll(cell.coordinates());
      row.put("last", line == lines.getLast());
      long step = line.get("step").longValue();
      row.put("step", step);
      row.put("tokens", MetricsFile.tokens(steps, step));
      row.put("seconds", seconds(cell, step, line));
      row.set("seconds_measured", line.get("seconds"));
      for (String field :
          List.of("ce_base", "ce_sae", "ce_adapted", "gap_closed", "kl_sae", "kl_adapted")) {
        if (line.has(field)) {
          row.set(field, line.get(field));
        }
      }
      JsonNode saes = line.path("saes");
      if (saes.size() == 1) {
        JsonNode sae = saes.iterator().next();
        row.set("l0", sae.path("l0"));
        row.set("fvu", sae.path("fvu"));
      }
      row.put("git_revision", result.text("git_revision", "unknown"));
    }
  }

  /**
   * How many seconds of training an evaluation comes after, counted from the original model: the
   * clock's times for the steps of the SAE and of the adapters. Without a clock they are the times
   * measured in the cell itself.
   */
  private double seconds(Cell cell, long step, JsonNode line) {
    if (!stepSeconds.containsKey(cell.arm())) {
      return line.get("seconds").doubleValue();
    }
    double before = 0;
    if (cell.task() instanceof Task.Adapt adapt && stepSeconds.containsKey(Cells.TOPK)) {
      int steps = adapt.saes().getFirst().step();
      before = stepSeconds.get(Cells.TOPK) * (steps > 0 ? steps : plan.saeSteps());
    }
    return before + step * stepSeconds.get(cell.arm());
  }

  /**
   * Computes how long end-to-end training takes to reach the cross-entropy at which each adapted
   * model ends.
   */
  private void compareTimes() {
    List<At> endToEnd = new ArrayList<>();
    for (JsonNode row : rows) {
      if (row.get("cell").asText().equals(Cells.END_TO_END)) {
        endToEnd.add(new At(row.get("seconds").asDouble(), row.get("ce_sae").asDouble()));
      }
    }
    if (endToEnd.isEmpty()) {
      return;
    }
    for (JsonNode row : rows) {
      if (row.get("last").asBoolean() && row.has("ce_adapted")) {
        At end = new At(row.get("seconds").asDouble(), row.get("ce_adapted").asDouble());
        TimeToEqual equal = TimeToEqual.of(end, endToEnd);
        ((ObjectNode) row)
            .put("e2e_seconds", equal.seconds())
            .put("ratio", equal.ratio())
            .put("ratio_reached", equal.reached());
      }
    }
  }

  private String csv() {
    StringBuilder csv = new StringBuilder(String.join(",", COLUMNS)).append('\n');
    for (JsonNode row : rows) {
      List<String> fields = COLUMNS.stream().map(column -> field(row.path(column))).toList();
      csv.append(String.join(",", fields)).append('\n');
    }
    return csv.toString();
  }

  private static String field(JsonNode value) {
    String text = value.isMissingNode() || value.isNull() ? "" : value.asText();
    return text.contains(",") ? '"' + text + '"' : text;
  }
}
