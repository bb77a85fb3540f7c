package espalier.report;

import espalier.format.InputException;
import espalier.format.StrictJson;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.function.Function;
import java.util.stream.Stream;

/**
 * What the folder of a run holds; parts may be missing.
 *
 * @param name tells the run from the others on its page
 * @param description the fields of {@code run.json}: command, settings, versions
 * @param parts runs in folders within this one: the stages of a demo
 */
record Run(
    String name,
    Optional<StrictJson> description,
    Metrics metrics,
    Optional<Results> results,
    Optional<LatentDensity> density,
    Optional<Reproduction> reproduction,
    List<Run> parts) {

  /** Reads runs that are shown side by side. */
  static List<Run> readAll(List<Path> folders) {
    List<String> names = RunNames.of(folders);
    List<Run> runs = new ArrayList<>();
    for (int i = 0; i < names.size(); i++) {
      runs.add(read(folders.get(i), names.get(i), folders.size() > 1 ? names.get(i) + "/" : ""));
    }
    return runs;
  }

  /**
   * Reads one run.
   *
   * @param prefix what the names of the parts begin with
   */
  private static Run read(Path folder, String name, String prefix) {
    if (!Files.isDirectory(folder)) {
      throw new InputException(folder, "no such folder");
    }
    List<Run> parts = new ArrayList<>();
    for (Path entry : foldersIn(folder)) {
      if (holdsRun(entry)) {
        parts.add(readFiles(entry, prefix + entry.getFileName(), List.of()));
      }
    }
    if (!holdsRun(folder) && parts.isEmpty()) {
      throw new InputException(folder, "holds no run: neither run.json nor metrics.jsonl");
    }
    return readFiles(folder, name, parts);
  }

  private static boolean holdsRun(Path folder) {
    return Files.exists(folder.resolve("run.json"))
        || Files.exists(folder.resolve("metrics.jsonl"));
  }

  private static List<Path> foldersIn(Path folder) {
    try (Stream<Path> entries = Files.list(folder)) {
      return entries.filter(Files::isDirectory).sorted().toList();
    } catch (IOException e) {
      throw new InputException(folder, "cannot be listed");
    }
  }

  private static Run readFiles(Path folder, String name, List<Run> parts) {
    return new Run(
        name,
        ifThere(folder.resolve("run.json"), StrictJson::read),
        ifThere(folder.resolve("metrics.jsonl"), Metrics::read)
            .or(() -> ifThere(folder.resolve("evaluation.json"), Metrics::readEvaluation))
            .orElse(Metrics.NONE),
        ifThere(folder.resolve("results.json"), Results::read),
        ifThere(folder.resolve("latent_density.json"), LatentDensity::read),
        ifThere(folder.resolve("reproduction.json"), Reproduction::read),
        parts);
  }

  private static <T> Optional<T> ifThere(Path file, Function<Path, T> read) {
    return Files.exists(file) ? Optional.of(read.apply(file)) : Optional.empty();
  }

  /**
   * The runs whose metrics are shown. A demo's own metrics are a copy of those of one of its parts,
   * so only its parts are shown. SAEs that were evaluated alone come after the run that trained
   * them.
   */
  static List<Run> withMetrics(List<Run> runs) {
    return runs.stream()
        .flatMap(
            run ->
                Stream.concat(
                    run.results.isPresent() ? Stream.empty() : Stream.of(run), run.parts.stream()))
        .flatMap(run -> Stream.concat(Stream.of(run), run.alone()))
        .filter(run -> !run.metrics.isEmpty())
        .toList();
  }

  boolean hasSaesAlone() {
    return !metrics.alone().isEmpty() || parts.stream().anyMatch(Run::hasSaesAlone);
  }

  private Stream<Run> alone() {
    return metrics.alone().entrySet().stream()
        .map(
            sae ->
                new Run(
                    sae(sae.getKey()),
                    Optional.empty(),
                    Metrics.ofEvaluations(sae.getValue()),
                    Optional.empty(),
                    Optional.empty(),
                    Optional.empty(),
                    List.of()));
  }

  /** The name of an SAE of this run; it may be the run's own name, if the run trained that SAE. */
  String sae(String layer) {
    String which = ", layer " + layer;
    return name.endsWith(which) ? name : name + which;
  }
}
