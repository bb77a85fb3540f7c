package espalier.cli;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.Map;

/** What steering does to texts, for people. */
final class SteeringTable {

  private static final String LINE = "%10s  %-20s %10s %10s %12s%n";

  private SteeringTable() {}

  static String of(ObjectNode result) {
    StringBuilder text = new StringBuilder();
    text.append(LINE.formatted("strength", "", "positive", "negative", "difference"));
    for (JsonNode point : result.get("points")) {
      for (Map.Entry<String, JsonNode> variant : point.properties()) {
        if (variant.getValue().isObject()) {
          double positive = variant.getValue().get("positive").doubleValue();
          double negative = variant.getValue().get("negative").doubleValue();
          text.append(
              LINE.formatted(
                  "%g".formatted(point.get("strength").doubleValue()),
                  variant.getKey(),
                  "%.4f".formatted(positive),
                  "%.4f".formatted(negative),
                  "%.4f".formatted(positive - negative)));
        }
      }
    }
    return text.append("log-likelihood of the next token, mean over tokens, nats\n").toString();
  }
}
