package espalier.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;

/** The demo's results as people read them. */
final class DemoTable {

  private static final String LINE = "%-22s %8s %8s %8s %11s %8s %8s %6s %6s %8s%n";

  private DemoTable() {}

  static String of(ObjectNode results) {
    StringBuilder text = new StringBuilder();
    text.append(
        LINE.formatted(
            "",
            "CE base",
            "with SAE",
            "adapted",
            "gap closed",
            "KL SAE",
            "adapted",
            "L0",
            "FVU",
            "seconds"));
    for (JsonNode row : results.get("rows")) {
      text.append(
          LINE.formatted(
              row.get("name").asText(),
              number(row, "ce_base", "%.4f"),
              number(row, "ce_sae", "%.4f"),
              number(row, "ce_adapted", "%.4f"),
              percent(row, "gap_closed"),
              number(row, "kl_sae", "%.4f"),
              number(row, "kl_adapted", "%.4f"),
              number(row, "l0", "%.1f"),
              number(row, "fvu", "%.3f"),
              number(row, "seconds", "%.1f")));
    }
    text.append(
        "CE and KL in nats per byte on held-out text; seconds of training this row alone.\n");
    return text.toString();
  }

  private static String number(JsonNode row, String key, String format) {
    return row.has(key) ? format.formatted(row.get(key).doubleValue()) : "-";
  }

  private static String percent(JsonNode row, String key) {
    return row.has(key) ? "%.1f %%".formatted(100 * row.get(key).doubleValue()) : "-";
  }
}
