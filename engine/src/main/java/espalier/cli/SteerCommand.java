package espalier.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.recipe.Console;
import espalier.recipe.SteerRecipe;
import espalier.recipe.SteerSettings;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
    name = "steer",
    description = "Adds multiples of a latent's direction and measures how likely texts become.")
final class SteerCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;
  @Mixin private DownstreamModel of;

  @Option(
      names = "--latent",
      required = true,
      paramLabel = "LAYER:LATENT",
      description = "of the SAE at LAYER; its decoder row, at norm 1, is what is added")
  private String latent;

  @Option(
      names = "--strength",
      required = true,
      arity = "1..*",
      description = "multiples of the direction, 0 for none")
  private List<Double> strengths;

  @Option(
      names = "--positive",
      required = true,
      paramLabel = "FILE",
      description = "texts that the latent stands for")
  private Path positive;

  @Option(names = "--negative", required = true, paramLabel = "FILE", description = "other texts")
  private Path negative;

  @Option(
      names = "--context",
      description = "tokens of a text at most, the first (default: ${DEFAULT-VALUE})")
  private int context = 256;

  @Option(names = "--json", description = "print one JSON object")
  private boolean json;

  @Override
  public Integer call() {
    computing.check();
    int[] at = SteerSettings.latent(latent);
    ObjectNode result =
        new SteerRecipe(
                new SteerSettings(
                    of.model(),
                    of.saes(),
                    of.adapter(),
                    at[0],
                    at[1],
                    strengths,
                    positive,
                    negative,
                    context),
                Console.standard())
            .run();
    System.out.print(json ? result + "\n" : SteeringTable.of(result));
    return 0;
  }
}
