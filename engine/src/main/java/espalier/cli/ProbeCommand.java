package espalier.cli;

import espalier.recipe.Console;
import espalier.recipe.ProbeRecipe;
import espalier.recipe.ProbeSettings;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
    name = "probe",
    description = "Tells labels of texts from a few latents, or coordinates of activations.")
final class ProbeCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;
  @Mixin private DownstreamModel of;

  @Option(
      names = "--data",
      required = true,
      paramLabel = "FILE",
      description = "texts with labels to fit on: .jsonl, .parquet or .csv, field text")
  private Path data;

  @Option(
      names = "--eval-data",
      required = true,
      paramLabel = "FILE",
      description = "texts with labels to test on")
  private Path evalData;

  @Option(names = "--label", required = true, paramLabel = "FIELD", description = "of the labels")
  private String label;

  @Option(
      names = "--k",
      split = ",",
      description = "features that a probe may look at (default: 1,2,5,20)")
  private List<Integer> sizes = List.of(1, 2, 5, 20);

  @Option(
      names = "--layer",
      description = "block whose output is probed beside the latents (default: the last)")
  private Integer layer;

  @Option(
      names = "--context",
      description = "tokens of a text at most, the first (default: ${DEFAULT-VALUE})")
  private int context = 128;

  @Option(
      names = "--features",
      paramLabel = "DIR",
      description = "write the features of all texts, .npy")
  private Path features;

  @Option(names = "--json", description = "print one JSON object")
  private boolean json;

  @Override
  public Integer call() {
    computing.check();
    new ProbeRecipe(
            new ProbeSettings(
                of.model(),
                of.saes(),
                of.adapter(),
                data,
                evalData,
                label,
                sizes,
                layer == null ? OptionalInt.empty() : OptionalInt.of(layer),
                context,
                Optional.ofNullable(features)),
            Console.standard())
        .run(result -> System.out.print(json ? result + "\n" : Table.of(result)));
    return 0;
  }
}
