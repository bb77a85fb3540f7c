package espalier.recipe;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.format.ModelFolder;
import espalier.model.LanguageModel;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.SaeStatistics;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.SortedMap;

/** Reads back what the demo's stages left, and measures each SAE as it was saved. */
final class DemoResults {

  private final Path out;
  private final int layer;
  private final Console console;

  DemoResults(Path out, int layer, Console console) {
    this.out = out;
    this.layer = layer;
    this.console = console;
  }

  /**
   * @param stages name and seconds of each stage
   */
  ObjectNode collect(ArrayNode stages) {
    ObjectNode density = JsonNodeFactory.instance.objectNode();
    Evaluation topk = evaluate("sae-topk", density);
    Evaluation jumpRelu = evaluate("sae-jumprelu", density);
    Evaluation endToEnd = evaluate("sae-e2e", density);
    new RunFolder(out).write("latent_density.json", density);
    List<JsonNode> adaptCurve = evaluations("adapter");
    List<JsonNode> endToEndCurve = evaluations("sae-e2e");
    JsonNode adapted = adaptCurve.getLast();

    ObjectNode results = JsonNodeFactory.instance.objectNode();
    results.put("ce_base", topk.ceBase());
    results.put("ce_sae", topk.ceSae().orElseThrow());
    ArrayNode rows = results.putArray("rows");
    ObjectNode best = row(rows, "TopK SAE + LoRA", topk, adapted.get("seconds").doubleValue());
    for (String key : List.of("ce_adapted", "gap_closed", "kl_adapted")) {
      best.set(key, adapted.get(key));
    }
    row(rows, "JumpReLU SAE", jumpRelu, trainingSeconds("sae-jumprelu"));
    ObjectNode e2e = row(rows, "TopK SAE, end to end", endToEnd, trainingSeconds("sae-e2e"));
    double gap = topk.ceSae().orElseThrow() - topk.ceBase();
    e2e.put("gap_closed", (topk.ceSae().orElseThrow() - endToEnd.ceSae().orElseThrow()) / gap);
    results.set("stages", stages);
    ArrayNode curves = results.putArray("curves");
    // What went before counts: the adapters need a trained SAE, the end-to-end SAE starts from
    // nothing.
    curve(
        curves,
        "TopK SAE, then LoRA",
        "adapter",
        adaptCurve,
        "ce_adapted",
        trainingSeconds("sae-topk"));
    curve(curves, "TopK SAE, end to end", "sae-e2e", endToEndCurve, "ce_sae", 0);
    return results;
  }

  private ObjectNode row(ArrayNode rows, String name, Evaluation evaluation, double seconds) {
    ObjectNode row = rows.addObject();
    row.put("name", name);
    row.put("ce_base", evaluation.ceBase());
    row.put("ce_sae", evaluation.ceSae().orElseThrow());
    row.put("kl_sae", evaluation.klSae().orElseThrow());
    row.put("l0", evaluation.saes().get(layer).l0());
    row.put("fvu", evaluation.saes().get(layer).fvu());
    row.put("seconds", seconds);
    return row;
  }

  private static void curve(
      ArrayNode curves,
      String name,
      String run,
      List<JsonNode> lines,
      String field,
      double before) {
    ArrayNode points = curves.addObject().put("name", name).put("run", run).putArray("points");
    for (JsonNode line : lines) {
      points
          .addArray()
          .add(before + line.get("seconds").doubleValue())
          .add(line.get(field).doubleValue());
    }
  }

  private Evaluation evaluate(String folder, ObjectNode density) {
    Path modelFolder = out.resolve("model");
    try (Device device = Device.open();
        ModelFolder files = ModelFolder.open(modelFolder)) {
      SortedMap<Integer, Sae> saes =
          Saes.load(
                  device, List.of(new SaeSpec(layer, out.resolve(folder))), files.config(), console)
              .byLayer();
      LanguageModel model = LanguageModel.load(device, files);
      TokenRows rows =
          TokenRows.read(
              List.of(out.resolve("data/eval.jsonl")),
              model.config(),
              modelFolder,
              model.config().maxPositionEmbeddings());
      Evaluator evaluator = new Evaluator(device, Ranks.alone(), model, saes, Adapters.NONE, rows);
      evaluator.bind(device.allocate(evaluator.bytes()));
      Evaluation evaluation = evaluator.evaluate(done -> {});
      SaeStatistics statistics = evaluator.statistics().get(layer);
      density.put("tokens", statistics.summary().tokens());
      ArrayNode counts = density.withObject("/saes").putArray(folder);
      for (long count : statistics.firings()) {
        counts.add(count);
      }
      return evaluation;
    }
  }

  private List<JsonNode> evaluations(String folder) {
    return lines(folder).stream().filter(line -> line.has("saes")).toList();
  }

  private double trainingSeconds(String folder) {
    return lines(folder).stream()
            .filter(line -> line.has("step_ms"))
            .mapToDouble(line -> line.get("step_ms").doubleValue())
            .sum()
        * 1e-3;
  }

  private List<JsonNode> lines(String folder) {
    Path file = out.resolve(folder).resolve("metrics.jsonl");
    ObjectMapper mapper = new ObjectMapper();
    try {
      List<JsonNode> lines = new ArrayList<>();
      for (String line : Files.readAllLines(file)) {
        lines.add(mapper.readTree(line));
      }
      return lines;
    } catch (IOException e) {
      throw new UncheckedIOException(file + " cannot be read", e);
    }
  }
}
