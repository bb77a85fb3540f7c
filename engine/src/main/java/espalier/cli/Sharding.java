package espalier.cli;

import picocli.CommandLine.Option;

/** The option of every command that splices frozen SAEs in on several ranks. */
final class Sharding {

  @Option(
      names = "--shard-sae",
      description =
          "ranks hold each SAE together, about 1/N of its matrices each, instead of all of it; the"
              + " result is the same")
  private boolean shardSae;

  boolean isAsked() {
    return shardSae;
  }
}
