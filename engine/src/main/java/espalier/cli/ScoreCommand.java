package espalier.cli;

import espalier.recipe.Console;
import espalier.recipe.ScoreRecipe;
import espalier.recipe.ScoreSettings;
import java.nio.file.Path;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

@Command(
    name = "score",
    description = "Multiple choice by log-likelihood, as lm-evaluation-harness scores it.")
final class ScoreCommand implements Callable<Integer> {

  @Mixin private Common common;
  @Mixin private Computing computing;
  @Mixin private DownstreamModel of;

  @Option(
      names = "--questions",
      required = true,
      paramLabel = "FILE",
      description =
          ".jsonl with context, choices, label; or HellaSwag, MMLU or TruthfulQA as they are"
              + " downloaded (.jsonl, .parquet, .csv)")
  private Path questions;

  @Option(names = "--limit", description = "questions at most, the first ones (default: all)")
  private Integer limit;

  @Option(names = "--no-bos", description = "no BOS before contexts (default: where there is one)")
  private boolean noBos;

  @Option(
      names = "--context",
      description = "tokens at most; the first are cut off (default: ${DEFAULT-VALUE})")
  private int context = 1024;

  @Option(
      names = "--details",
      paramLabel = "FILE",
      description = "write each choice's tokens and log-likelihoods, .jsonl")
  private Path details;

  @Option(names = "--json", description = "print one JSON object")
  private boolean json;

  @Override
  public Integer call() {
    computing.check();
    new ScoreRecipe(
            new ScoreSettings(
                of.model(),
                of.saes(),
                of.adapter(),
                questions,
                limit == null ? OptionalInt.empty() : OptionalInt.of(limit),
                !noBos,
                context,
                Optional.ofNullable(details)),
            Console.standard())
        .run(result -> System.out.print(json ? result + "\n" : Table.of(result)));
    return 0;
  }
}
