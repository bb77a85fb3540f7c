package espalier.cli;

import espalier.recipe.Console;
import espalier.recipe.GenerateRecipe;
import espalier.recipe.GenerateSettings;
import espalier.recipe.Steering;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(name = "generate", description = "Continues a text; latents can be held at values.")
final class GenerateCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;

  @Option(names = "--model", required = true, description = "model folder, or name on the Hub")
  private Path model;

  @Option(
      names = "--sae",
      paramLabel = "LAYER=PATH",
      description =
          "SAE at the output of block LAYER, counted from 0, or where in it its files say;"
              + " repeatable")
  private List<String> saes = List.of();

  @Option(names = "--adapter", paramLabel = "DIR", description = "PEFT adapter")
  private Path adapter;

  @Option(
      names = "--steer",
      paramLabel = "LAYER:LATENT=VALUE",
      description = "hold a latent of the SAE at LAYER at VALUE; repeatable")
  private List<String> steer = List.of();

  @Option(names = "--prompt", required = true, description = "text to continue")
  private String prompt;

  @Option(names = "--max-tokens", description = "tokens at most (default: ${DEFAULT-VALUE})")
  private int maxTokens = 64;

  @Option(
      names = "--temperature",
      description = "0: always the likeliest token (default: ${DEFAULT-VALUE})")
  private double temperature = 0.8;

  @Option(
      names = "--top-p",
      description = "share of the probability drawn from (default: ${DEFAULT-VALUE})")
  private double topP = 0.95;

  @Option(names = "--seed", description = "of the draws (default: 42)")
  private long seed = 42;

  @Override
  public Integer call() {
    computing.check();
    System.out.println(
        new GenerateRecipe(
                new GenerateSettings(
                    Located.model(model),
                    saes.stream().map(Located::sae).toList(),
                    Located.adapter(adapter),
                    steer.stream().map(Steering::parse).toList(),
                    prompt,
                    maxTokens,
                    temperature,
                    topP,
                    seed),
                Console.standard())
            .run());
    return 0;
  }
}
