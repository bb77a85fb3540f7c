package espalier.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** An evaluation as people read it: what was not measured has no line. */
final class EvaluationTable {

  private static final Map<String, String> VARIANTS = new LinkedHashMap<>();
  private static final Map<String, String> SAE = new LinkedHashMap<>();

  static {
    VARIANTS.put("sae", "with SAEs");
    VARIANTS.put("adapted", "adapted");

    SAE.put("ce_sae", "CE with it alone");
    SAE.put("ce_abl", "CE with zeros instead");
    SAE.put("ce_loss_score", "loss recovered");
    SAE.put("kl_sae", "KL with it alone");
    SAE.put("kl_abl", "KL with zeros instead");
    SAE.put("kl_div_score", "KL score");
    SAE.put("explained_variance", "explained variance");
    SAE.put("fvu", "FVU");
    SAE.put("mse", "squared error |x-y|^2");
    SAE.put("cosine", "cosine");
    SAE.put("l2_norm_in", "|x|");
    SAE.put("l2_norm_out", "|y|");
    SAE.put("l2_ratio", "|y| / |x|");
    SAE.put("relative_reconstruction_bias", "reconstruction bias");
    SAE.put("l0", "L0");
    SAE.put("l1", "L1");
    SAE.put("frac_alive", "latents alive");
    SAE.put("dead", "latents dead");
    SAE.put("freq_over_1_percent", "latents over 1 %");
    SAE.put("freq_over_10_percent", "latents over 10 %");
    SAE.put("normalized_freq_over_1_percent", "their activity, over 1 %");
    SAE.put("normalized_freq_over_10_percent", "their activity, over 10 %");
  }

  private final ObjectNode json;
  private final StringBuilder text = new StringBuilder();

  private EvaluationTable(ObjectNode json) {
    this.json = json;
  }

  static String of(ObjectNode json) {
    EvaluationTable table = new EvaluationTable(json);
    table.model();
    table.saes();
    table.tokens();
    table.activations();
    return table.text.toString();
  }

  private void model() {
    List<List<String>> lines = new ArrayList<>();
    lines.add(List.of("nats per token", "CE", json.has("kl_sae") ? "KL" : ""));
    lines.add(List.of("original", number(json, "ce_base"), ""));
    variant(lines, "with SAEs", "ce_sae", "kl_sae");
    variant(lines, "adapted", "ce_adapted", "kl_adapted");
    variant(lines, "with zeros instead", "ce_abl", "kl_abl");
    if (json.has("gap_closed")) {
      lines.add(List.of("gap closed", number(json, "gap_closed"), ""));
    }
    if (json.has("ce_loss_score")) {
      lines.add(
          List.of(
              "loss recovered, KL score",
              number(json, "ce_loss_score"),
              number(json, "kl_div_score")));
    }
    section(lines);
  }

  private void variant(List<List<String>> lines, String name, String ce, String kl) {
    if (json.has(ce)) {
      lines.add(List.of(name, number(json, ce), number(json, kl)));
    }
  }

  private void saes() {
    JsonNode saes = json.path("saes");
    if (saes.isEmpty()) {
      return;
    }
    List<List<String>> lines = new ArrayList<>();
    List<String> head = new ArrayList<>(List.of("SAE at layer"));
    saes.fieldNames().forEachRemaining(head::add);
    lines.add(head);
    SAE.forEach((key, name) -> addIfAny(lines, name, key, saes));
    section(lines);
  }

  private void tokens() {
    JsonNode variants = json.path("token_loss_differences");
    if (variants.isEmpty()) {
      return;
    }
    List<List<String>> lines = new ArrayList<>();
    lines.add(head("loss differences of tokens", variants, 1));
    addIfAny(lines, "tokens", "tokens", variants);
    addIfAny(lines, "mean", "mean", variants);
    addIfAny(lines, "mean size", "mean_absolute", variants);
    variants
        .iterator()
        .next()
        .path("quantiles_absolute")
        .fieldNames()
        .forEachRemaining(
            q -> {
              List<String> line = new ArrayList<>(List.of("size, quantile " + q));
              variants.forEach(v -> line.add(number(v.path("quantiles_absolute"), q)));
              lines.add(line);
            });
    section(lines);
  }

  private void activations() {
    JsonNode variants = json.path("activation_distance");
    if (variants.isEmpty()) {
      return;
    }
    List<List<String>> lines = new ArrayList<>();
    lines.add(head("distance of activations", variants, 2));
    List<String> columns = new ArrayList<>(List.of("after block"));
    variants.forEach(v -> columns.addAll(List.of("L2", "cosine")));
    lines.add(columns);
    for (int layer = 0; layer < variants.iterator().next().size(); layer++) {
      List<String> line = new ArrayList<>(List.of(String.valueOf(layer)));
      for (JsonNode variant : variants) {
        JsonNode values = variant.get(layer);
        line.add(number(values, "l2") + " ± " + number(values, "l2_ci90"));
        line.add(number(values, "cosine") + " ± " + number(values, "cosine_ci90"));
      }
      lines.add(line);
    }
    section(lines);
  }

  /** A title, and each variant's name above its columns. */
  private static List<String> head(String title, JsonNode variants, int columns) {
    List<String> line = new ArrayList<>(List.of(title));
    variants
        .fieldNames()
        .forEachRemaining(
            name -> {
              line.add(VARIANTS.get(name));
              for (int i = 1; i < columns; i++) {
                line.add("");
              }
            });
    return line;
  }

  private static void addIfAny(
      List<List<String>> lines, String name, String key, JsonNode columns) {
    List<String> line = new ArrayList<>(List.of(name));
    boolean any = false;
    for (JsonNode column : columns) {
      any |= column.has(key);
      line.add(number(column, key));
    }
    if (any) {
      lines.add(line);
    }
  }

  private static String number(JsonNode object, String key) {
    JsonNode value = object.path(key);
    return value.isIntegralNumber()
        ? value.asText()
        : value.isNumber() ? "%.5g".formatted(value.doubleValue()) : "-";
  }

  /** Names to the left, numbers to the right, a blank line between sections. */
  private void section(List<List<String>> lines) {
    int columns = lines.stream().mapToInt(List::size).max().orElse(0);
    int[] width = new int[columns];
    for (List<String> line : lines) {
      for (int c = 0; c < line.size(); c++) {
        width[c] = Math.max(width[c], line.get(c).length());
      }
    }
    if (!text.isEmpty()) {
      text.append(System.lineSeparator());
    }
    for (List<String> line : lines) {
      StringBuilder row = new StringBuilder();
      for (int c = 0; c < line.size(); c++) {
        String padding = " ".repeat(width[c] - line.get(c).length());
        row.append(c == 0 ? line.get(c) + padding : "  " + padding + line.get(c));
      }
      text.append(row.toString().stripTrailing()).append(System.lineSeparator());
    }
  }
}
