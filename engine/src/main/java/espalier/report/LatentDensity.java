package espalier.report;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.format.StrictJson;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * {@code latent_density.json}: how often each latent fired.
 *
 * @param tokens how many tokens the SAEs were applied to
 * @param firings by the SAE's name: for each latent, the number of tokens it was active on
 */
record LatentDensity(long tokens, Map<String, long[]> firings) {

  static LatentDensity read(Path file) {
    StrictJson json = StrictJson.read(file);
    long tokens = json.integer("tokens");
    if (tokens < 1) {
      throw json.fault("tokens", "is " + tokens + ", not positive");
    }
    Map<String, long[]> firings = new LinkedHashMap<>();
    json.object("saes")
        .ifPresent(saes -> saes.keys().forEach(sae -> firings.put(sae, counts(saes, sae, tokens))));
    return new LatentDensity(tokens, firings);
  }

  private static long[] counts(StrictJson saes, String sae, long tokens) {
    JsonNode array = saes.raw(sae);
    if (!array.isArray()) {
      throw saes.fault(sae, "is not an array");
    }
    long[] counts = new long[array.size()];
    for (int i = 0; i < counts.length; i++) {
      JsonNode count = array.get(i);
      if (!count.isIntegralNumber() || count.longValue() < 0 || count.longValue() > tokens) {
        throw saes.fault(sae + "[" + i + "]", "is " + count + ", not of 0 to " + tokens);
      }
      counts[i] = count.longValue();
    }
    return counts;
  }
}
