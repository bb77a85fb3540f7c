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
    description =
        "Says what a model, SAE or adapter is taken for; runs an SAE on activations or a model on"
            + " token ids.")
final class InspectCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;

  @Parameters(paramLabel = "PATH", description = "folder, file, or name on the Hub")
  private Path path;

  @Option(
      names = "--input",
      paramLabel = "X.npy",
      description = "activations [n, d], or token ids [n, t] for a model")
  private Path input;

  @Option(
      names = "--latents",
      paramLabel = "F.npy",
      description = "where an SAE's latents [n, m] go")
  private Path latents;

  @Option(
      names = "--output",
      paramLabel = "Y.npy",
      description = "where an SAE's outputs [n, d] or a model's logits [n t, vocab] go")
  private Path output;

  @Option(
      names = "--hidden",
      paramLabel = "H.npy",
      description =
          "where a model's residual stream [(layers + 1) n t, hidden] goes: before the first block,"
              + " after each but the last, and what the head reads")
  private Path hidden;

  @Option(names = "--json", description = "print one JSON object")
  private boolean json;

  @Override
  public Integer call() {
    computing.check();
    new InspectRecipe(
            new InspectSettings(
                Located.anything(path),
                Optional.ofNullable(input),
                Optional.ofNullable(latents),
                Optional.ofNullable(output),
                Optional.ofNullable(hidden)),
            Console.standard())
        .run(result -> System.out.print(json ? result + "\n" : Table.of(result)));
    return 0;
  }
}
