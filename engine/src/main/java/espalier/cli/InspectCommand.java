package espalier.cli;

import espalier.recipe.Console;
import espalier.recipe.InspectRecipe;
import espalier.recipe.InspectSettings;
import java.nio.file.Path;
import java.util.Optional;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

@Command(
    name = "inspect",
    description = "Says what a model, SAE or adapter is taken for; runs an SAE on activations.")
final class InspectCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;

  @Parameters(paramLabel = "PATH", description = "folder or file")
  private Path path;

  @Option(names = "--input", paramLabel = "X.npy", description = "activations [n, d]")
  private Path input;

  @Option(names = "--latents", paramLabel = "F.npy", description = "where latents [n, m] go")
  private Path latents;

  @Option(names = "--output", paramLabel = "Y.npy", description = "where outputs [n, d] go")
  private Path output;

  @Option(names = "--json", description = "print one JSON object")
  private boolean json;

  @Override
  public Integer call() {
    computing.check();
    var result =
        new InspectRecipe(
                new InspectSettings(
                    path,
                    Optional.ofNullable(input),
                    Optional.ofNullable(latents),
                    Optional.ofNullable(output)),
                Console.standard())
            .run();
    System.out.print(json ? result + "\n" : Table.of(result));
    return 0;
  }
}
