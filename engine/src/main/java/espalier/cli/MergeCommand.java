package espalier.cli;

import espalier.recipe.Console;
import espalier.recipe.MergeRecipe;
import espalier.recipe.MergeSettings;
import java.nio.file.Path;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
    name = "merge",
    description = "Writes a model with an adapter's updates in its weights, for any tool to run.")
final class MergeCommand implements Callable<Integer> {

  /** The type that all weights are written in. */
  enum Target {
    F32
  }

  @Mixin private Common common;

  @Option(names = "--model", required = true, description = "model folder, or name on the Hub")
  private Path model;

  @Option(names = "--adapter", required = true, paramLabel = "DIR", description = "PEFT adapter")
  private Path adapter;

  @Option(names = "--out", required = true, description = "new folder of the merged model")
  private Path out;

  @Option(names = "--dtype", description = "f32 (default: each weight as the model has it)")
  private Target dtype;

  @Option(names = "--json", description = "print one JSON object")
  private boolean json;

  @Override
  public Integer call() {
    var result =
        new MergeRecipe(
                new MergeSettings(
                    Located.model(model),
                    Located.adapter(adapter).orElseThrow(),
                    out,
                    dtype == Target.F32),
                Console.standard())
            .run();
    System.out.print(json ? result + "\n" : Table.of(result));
    return 0;
  }
}
