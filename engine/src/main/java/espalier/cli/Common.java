package espalier.cli;

import picocli.CommandLine.Option;

/** Options of every command. */
final class Common {

  @Option(names = "--verbose", description = "show the stack trace of a failure")
  private boolean verbose;

  @Option(
      names = {"-h", "--help"},
      usageHelp = true,
      description = "show this help")
  private boolean help;
}
