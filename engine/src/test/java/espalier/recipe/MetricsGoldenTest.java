package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import espalier.Golden;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.junit.jupiter.api.Test;

/** All metrics of two SAEs and an adapter against PyTorch's, in float64. */
class MetricsGoldenTest {

  /** Sums over tokens of float32 values, against float64. */
  private static final double RELATIVE = 1e-5;

  private static JsonNode evaluate() {
    return new EvaluateRecipe(
            new EvaluateSettings(
                Golden.folder("llama"),
                List.of(
                    new SaeSpec(2, Golden.folder("sae-jumprelu")),
                    new SaeSpec(1, Golden.folder("sae-topk"))),
                Optional.of(Golden.folder("adapter")),
                List.of(Golden.folder("tokens.npy")),
                24,
                MetricSet.ALL,
                Optional.empty()),
            Console.to(new PrintStream(new ByteArrayOutputStream())))
        .run()
        .toJson();
  }

  @Test
  void everyMetric() throws IOException {
    JsonNode want = new ObjectMapper().readTree(Golden.folder("metrics.json").toFile());
    JsonNode got = evaluate();
    numbers("", want, got);
    assertEquals(List.of("1", "2"), names(got.get("saes")));
    for (String layer : names(want.get("saes"))) {
      numbers(layer + " ", want.get("saes").get(layer), got.get("saes").get(layer));
    }
    for (String variant : List.of("sae", "adapted")) {
      JsonNode tokens = got.at("/token_loss_differences/" + variant);
      JsonNode wantTokens = want.at("/tokens/" + variant);
      numbers(variant + " ", wantTokens, tokens);
      String counts = tokens.at("/histogram_absolute/counts").toString();
      assertEquals(wantTokens.get("counts").toString(), counts);
      for (Map.Entry<String, JsonNode> quantile : wantTokens.get("quantiles").properties()) {
        double size = quantile.getValue().doubleValue();
        double of = tokens.get("quantiles_absolute").get(quantile.getKey()).doubleValue();
        assertEquals(size, of, size / 4096 + RELATIVE, "quantile " + quantile.getKey());
      }
      JsonNode layers = got.at("/activation_distance/" + variant);
      JsonNode wantLayers = want.at("/activations/" + variant);
      assertEquals(wantLayers.size(), layers.size());
      for (int i = 0; i < layers.size(); i++) {
        numbers(variant + " block " + i + " ", wantLayers.get(i), layers.get(i));
      }
    }
  }

  /** Every number of an object, not those of the objects in it. */
  private static void numbers(String where, JsonNode want, JsonNode got) {
    for (Map.Entry<String, JsonNode> field : want.properties()) {
      if (field.getValue().isNumber()) {
        double value = field.getValue().doubleValue();
        String name = where + field.getKey();
        assertEquals(
            value, got.path(field.getKey()).asDouble(Double.NaN), RELATIVE * Math.abs(value), name);
      }
    }
  }

  private static List<String> names(JsonNode object) {
    return object.propertyStream().map(Map.Entry::getKey).toList();
  }
}
