package espalier.cli;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.format.StrictJson;
import java.nio.file.Path;

/** Where each cell of a reproduction ended, for people. */
final class ReproductionTable {

  private static final String LINE = "%-22s %-32s %8s %8s %8s %10s %9s %9s %8s%n";

  private ReproductionTable() {}

  static String of(Path file) {
    StringBuilder text = new StringBuilder();
    text.append(
        LINE.formatted(
            "cell", "", "CE base", "with SAE", "adapted", "gap closed", "seconds", "e2e", "ratio"));
    for (JsonNode row : StrictJson.read(file).raw("rows")) {
      if (row.path("last").asBoolean()) {
        text.append(
            LINE.formatted(
                row.get("cell").asText(),
                row.get("arm").asText(),
                number(row, "ce_base", "%.4f", 1),
                number(row, "ce_sae", "%.4f", 1),
                number(row, "ce_adapted", "%.4f", 1),
                number(row, "gap_closed", "%.1f %%", 100),
                number(row, "seconds", "%.1f", 1),
                number(row, "e2e_seconds", "%.1f", 1),
                number(row, "ratio", row.path("ratio_reached").asBoolean() ? "%.2f" : ">%.2f", 1)));
      }
    }
    return text.toString();
  }

  private static String number(JsonNode row, String key, String format, double factor) {
    return row.has(key) ? format.formatted(factor * row.get(key).doubleValue()) : "-";
  }
}
