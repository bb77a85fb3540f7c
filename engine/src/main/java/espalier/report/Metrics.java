package espalier.report;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.InputException;
import espalier.format.StrictJson;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.Set;

/**
 * The lines of {@code metrics.jsonl}.
 *
 * @param steps one for each step of training
 * @param evaluations one for each evaluation; {@code seconds} is the training time until then
 * @param alone evaluations of SAEs that were trained together, each spliced in alone, by layer
 */
record Metrics(
    List<JsonNode> steps, List<JsonNode> evaluations, Map<String, List<JsonNode>> alone) {

  static final Metrics NONE = ofEvaluations(List.of());

  private static final String ALONE = "alone";

  /** How Jackson writes the numbers for which JSON has no notation. */
  private static final Set<String> NOT_FINITE = Set.of("NaN", "Infinity", "-Infinity");

  /** The fields that plots show and tables do not. */
  private static final Set<String> PLOTTED = Set.of("kl", "ce", "grad_norm", "step_ms");

  /** The fields that hold objects: SAEs by layer, or variants of the model by name. */
  private static final Set<String> OBJECTS =
      Set.of("saes", DetailFigures.TOKENS, DetailFigures.ACTIVATIONS);

  private static final ObjectMapper JSON =
      JsonMapper.builder()
          .enable(JsonParser.Feature.STRICT_DUPLICATE_DETECTION)
          .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS)
          .build();

  static Metrics ofEvaluations(List<JsonNode> evaluations) {
    return new Metrics(List.of(), evaluations, Map.of());
  }

  static Metrics read(Path file) {
    List<String> lines;
    try {
      lines = Files.readAllLines(file, StandardCharsets.UTF_8);
    } catch (IOException e) {
      throw new InputException(file, "cannot be read as text");
    }
    Metrics metrics = new Metrics(new ArrayList<>(), new ArrayList<>(), new LinkedHashMap<>());
    for (int i = 0; i < lines.size(); i++) {
      JsonNode line = parse(file, i + 1, lines.get(i));
      if (line.has("seconds") && line.has(ALONE)) {
        metrics.split(line);
      } else {
        (line.has("seconds") ? metrics.evaluations : metrics.steps).add(line);
      }
    }
    return metrics;
  }

  private void split(JsonNode line) {
    for (Map.Entry<String, JsonNode> sae : line.get(ALONE).properties()) {
      ObjectNode evaluation = line.deepCopy();
      evaluation.remove(ALONE);
      evaluation.setAll((ObjectNode) sae.getValue());
      alone.computeIfAbsent(sae.getKey(), layer -> new ArrayList<>()).add(evaluation);
    }
  }

  /** Reads the single evaluation in a folder in which nothing was trained. */
  static Metrics readEvaluation(Path file) {
    StrictJson json = StrictJson.read(file);
    ObjectNode evaluation = JsonNodeFactory.instance.objectNode();
    for (String key : json.keys()) {
      JsonNode value = json.raw(key);
      if (isWrong(key, value)) {
        throw json.fault(key, "is not what it should be: " + value);
      }
      evaluation.set(key, value);
    }
    return ofEvaluations(List.of(evaluation));
  }

  private static JsonNode parse(Path file, int number, String text) {
    JsonNode line;
    try {
      line = JSON.readTree(text);
    } catch (JsonProcessingException e) {
      boolean duplicate = e.getOriginalMessage().startsWith("Duplicate field");
      throw fault(file, number, duplicate ? "a key appears twice" : "not valid JSON");
    }
    if (!line.isObject()) {
      throw fault(file, number, "no JSON object");
    }
    if (!line.path("step").isIntegralNumber()) {
      throw fault(file, number, "step is missing or is no integer");
    }
    for (Map.Entry<String, JsonNode> field : line.properties()) {
      if (isWrong(field.getKey(), field.getValue())) {
        throw fault(
            file, number, field.getKey() + " is not what it should be: " + field.getValue());
      }
    }
    return line;
  }

  private static boolean isWrong(String field, JsonNode value) {
    if (field.equals(ALONE)) {
      return !value.isObject() || value.valueStream().anyMatch(Metrics::isNoEvaluation);
    }
    return OBJECTS.contains(field)
        ? !value.isObject()
        : isRead(field) && !value.isNumber() && !NOT_FINITE.contains(value.asText());
  }

  private static boolean isNoEvaluation(JsonNode value) {
    return !value.isObject()
        || value.properties().stream().anyMatch(field -> isWrong(field.getKey(), field.getValue()));
  }

  private static boolean isRead(String field) {
    return PLOTTED.contains(field)
        || Arrays.stream(Column.values()).anyMatch(column -> column.field.equals(field));
  }

  private static InputException fault(Path file, int line, String what) {
    return new InputException(file, "line " + line + ": " + what);
  }

  boolean isEmpty() {
    return steps.isEmpty() && evaluations.isEmpty();
  }

  Optional<JsonNode> lastEvaluation() {
    return evaluations.isEmpty() ? Optional.empty() : Optional.of(evaluations.getLast());
  }

  /** The median of a field over the steps; empty if no step has the field. */
  OptionalDouble median(String field) {
    double[] values =
        points(steps, "step", field).stream().mapToDouble(Point::y).sorted().toArray();
    return values.length == 0
        ? OptionalDouble.empty()
        : OptionalDouble.of((values[(values.length - 1) / 2] + values[values.length / 2]) / 2);
  }

  /** One field against another, from the lines in which both are finite numbers. */
  static List<Point> points(List<JsonNode> lines, String x, String y) {
    return lines.stream()
        .filter(line -> isFinite(line.path(x)) && isFinite(line.path(y)))
        .map(line -> new Point(line.get(x).doubleValue(), line.get(y).doubleValue()))
        .toList();
  }

  static boolean isFinite(JsonNode value) {
    return value.isNumber() && Double.isFinite(value.doubleValue());
  }
}
