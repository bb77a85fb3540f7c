package espalier.cli;

import java.util.stream.Stream;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.ParseResult;

/** Tells the options that the user gave from those that have their defaults. */
final class Given {

  private Given() {}

  /**
   * @param command one whose options have been read
   * @param options names to choose from
   * @return those that were given
   */
  static Stream<String> among(CommandSpec command, String... options) {
    ParseResult read = command.commandLine().getParseResult();
    return Stream.of(options).filter(read::hasMatchedOption);
  }
}
