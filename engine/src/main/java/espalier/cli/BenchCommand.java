package espalier.cli;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.InputException;
import espalier.recipe.BenchSettings;
import espalier.recipe.Console;
import espalier.recipe.KernelBench;
import espalier.recipe.StepBench;
import java.util.OptionalInt;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
    name = "bench",
    description =
        "Measures a step of adapt on random weights of a model's shape, or single kernels.")
final class BenchCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;
  @Mixin private Profiling profiling;

  @Option(
      names = "--shape",
      description =
          "gemma-2-2b, llama-3.2-1b, gemma-like, tiny, or a config.json (default: gemma-like)")
  private String shape = "gemma-like";

  @Option(names = "--kernels", description = "measure kernels instead of a step")
  private boolean kernels;

  @Option(names = "--context", description = "tokens of a sequence (default: ${DEFAULT-VALUE})")
  private int context = 1024;

  @Option(names = "--batch", description = "sequences of a step (default: ${DEFAULT-VALUE})")
  private int batch = 1;

  @Option(names = "--sae-width", description = "latents (default: ${DEFAULT-VALUE})")
  private int saeWidth = 16_384;

  @Option(names = "--sae-layer", description = "block behind which it is (default: the middle)")
  private Integer saeLayer;

  @Option(names = "--l0", description = "active latents a token (default: ${DEFAULT-VALUE})")
  private int l0 = 70;

  @Option(names = "--rank", description = "of the adapter (default: ${DEFAULT-VALUE})")
  private int rank = 64;

  @Option(names = "--layers", description = "adapted: after, all, or a list (default: after)")
  private String layers = "after";

  @Option(names = "--steps", description = "that are measured (default: ${DEFAULT-VALUE})")
  private int steps = 10;

  @Option(names = "--json", description = "one JSON object a line")
  private boolean json;

  @Override
  public Integer call() {
    positive("--context", context, 2);
    positive("--batch", batch, 1);
    positive("--sae-width", saeWidth, 4);
    positive("--l0", l0, 1);
    positive("--rank", rank, 1);
    positive("--steps", steps, 1);
    computing.check();
    if (kernels) {
      new KernelBench(this::print).run();
      return 0;
    }
    OptionalInt layer = saeLayer == null ? OptionalInt.empty() : OptionalInt.of(saeLayer);
    print(
        new StepBench(
                new BenchSettings(shape, context, batch, saeWidth, layer, rank, layers, l0, steps),
                profiling.file(),
                Console.standard())
            .run());
    return 0;
  }

  private static void positive(String option, int value, int least) {
    if (value < least) {
      throw new InputException("%s %d: must be at least %d".formatted(option, value, least));
    }
  }

  private void print(ObjectNode line) {
    if (json) {
      System.out.println(line);
      return;
    }
    line.properties()
        .forEach(
            field ->
                System.out.printf(
                    "%-20s %s%n",
                    field.getKey(),
                    field.getValue().isDouble()
                        ? "%.4g".formatted(field.getValue().doubleValue())
                        : field.getValue().asText()));
    System.out.println();
  }
}
