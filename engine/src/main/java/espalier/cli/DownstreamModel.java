package espalier.cli;

import espalier.recipe.SaeSpec;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import picocli.CommandLine.Option;

/** The model, SAEs and adapter of {@code score}, {@code probe} and {@code steer}. */
final class DownstreamModel {

  @Option(names = "--model", required = true, description = "model folder, or name on the Hub")
  private Path model;

  @Option(
      names = "--sae",
      paramLabel = "LAYER=PATH",
      description =
          "SAE at the output of block LAYER, counted from 0, or where in it its files say;"
              + " repeatable")
  private List<String> saes = List.of();

  @Option(
      names = "--adapter",
      paramLabel = "DIR",
      description = "PEFT adapter; looked at with the SAEs and without them")
  private Path adapter;

  Path model() {
    return Located.model(model);
  }

  List<SaeSpec> saes() {
    return saes.stream().map(Located::sae).toList();
  }

  Optional<Path> adapter() {
    return Located.adapter(adapter);
  }
}
