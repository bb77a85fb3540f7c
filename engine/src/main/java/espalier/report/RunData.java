package espalier.report;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import espalier.format.InputException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;

/**
 * What a run's folder holds, as far as it is there.
 *
 * @param name of the folder
 * @param run {@code run.json}: command, settings, versions
 * @param metrics the lines of {@code metrics.jsonl}
 * @param results {@code results.json} of a demo: rows of its table and curves of its plot
 * @param density {@code latent_density.json}: tokens, and how often each latent of each SAE was
 *     active
 * @param parts runs in folders within this one
 */
record RunData(
    String name,
    Optional<JsonNode> run,
    List<JsonNode> metrics,
    Optional<JsonNode> results,
    Optional<JsonNode> density,
    List<RunData> parts) {

  private static final ObjectMapper JSON = new ObjectMapper();

  static RunData read(Path folder) {
    if (!Files.isDirectory(folder)) {
      throw new InputException(folder, "no such folder");
    }
    RunData data = readFolder(folder);
    if (data.run.isEmpty() && data.metrics.isEmpty()) {
      throw new InputException(folder, "holds no run: neither run.json nor metrics.jsonl");
    }
    return data;
  }

  private static RunData readFolder(Path folder) {
    try (Stream<Path> entries = Files.list(folder)) {
      List<RunData> parts =
          entries
              .filter(entry -> Files.exists(entry.resolve("metrics.jsonl")))
              .sorted()
              .map(RunData::readFolder)
              .toList();
      return new RunData(
          folder.toAbsolutePath().normalize().getFileName().toString(),
          object(folder.resolve("run.json")),
          lines(folder.resolve("metrics.jsonl")),
          object(folder.resolve("results.json")),
          object(folder.resolve("latent_density.json")),
          parts);
    } catch (IOException e) {
      throw new InputException(folder, "cannot be read");
    }
  }

  private static Optional<JsonNode> object(Path file) throws IOException {
    if (!Files.exists(file)) {
      return Optional.empty();
    }
    try {
      return Optional.of(JSON.readTree(Files.readString(file, StandardCharsets.UTF_8)));
    } catch (JsonProcessingException e) {
      throw new InputException(file, "not valid JSON");
    }
  }

  private static List<JsonNode> lines(Path file) throws IOException {
    List<JsonNode> nodes = new ArrayList<>();
    if (Files.exists(file)) {
      List<String> lines = Files.readAllLines(file, StandardCharsets.UTF_8);
      for (int i = 0; i < lines.size(); i++) {
        try {
          nodes.add(JSON.readTree(lines.get(i)));
        } catch (JsonProcessingException e) {
          throw new InputException(file, "line " + (i + 1) + ": not valid JSON");
        }
      }
    }
    return nodes;
  }

  /** Lines of steps that have a field, as (step, value). */
  List<double[]> series(String field) {
    return metrics.stream()
        .filter(line -> line.has("step_ms") && line.path(field).isNumber())
        .map(line -> new double[] {line.get("step").doubleValue(), line.get(field).doubleValue()})
        .toList();
  }

  /** Evaluations that have a field, as (seconds of training, value). */
  List<double[]> evaluations(String field) {
    return metrics.stream()
        .filter(line -> line.has("seconds") && line.path(field).isNumber())
        .map(
            line -> new double[] {line.get("seconds").doubleValue(), line.get(field).doubleValue()})
        .toList();
  }

  Optional<JsonNode> lastEvaluation() {
    return metrics.stream().filter(line -> line.has("seconds")).reduce((a, b) -> b);
  }
}
