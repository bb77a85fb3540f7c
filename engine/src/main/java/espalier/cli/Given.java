package espalier.cli;

import espalier.format.InputException;
import picocli.CommandLine.Model.CommandSpec;

/** Options that were given, where another leaves them without effect. */
final class Given {

  private Given() {}

  /**
   * @param command whose options have been read
   * @param why they have no effect, as in "an --init-sae keeps its own"
   * @param options by their names
   * @throws InputException that names the first of them that was given
   */
  static void refuse(CommandSpec command, String why, String... options) {
    for (String option : options) {
      if (command.commandLine().getParseResult().hasMatchedOption(option)) {
        throw new InputException(option + " has no effect: " + why);
      }
    }
  }
}
