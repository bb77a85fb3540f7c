package espalier.cli;

import picocli.CommandLine;
import picocli.CommandLine.Command;

/**
 * The command line. Results go to standard output, everything else to standard error. Exit codes: 0
 * done, 2 wrong usage or unusable input, 1 anything else.
 */
@Command(
    name = "espalier",
    description = "Adapts a language model around a frozen sparse autoencoder.",
    synopsisSubcommandLabel = "COMMAND",
    subcommands = {
      AdaptCommand.class,
      EvaluateCommand.class,
      MergeCommand.class,
      TrainSaeCommand.class,
      PretrainCommand.class,
      GenerateCommand.class,
      InspectCommand.class,
      ReportCommand.class,
      DoctorCommand.class,
      DemoCommand.class
    },
    mixinStandardHelpOptions = true,
    versionProvider = Main.Version.class)
public final class Main implements Runnable {

  @CommandLine.Spec private CommandLine.Model.CommandSpec spec;

  /** As the jar's manifest has it. */
  static final class Version implements CommandLine.IVersionProvider {
    @Override
    public String[] getVersion() {
      String version = Main.class.getPackage().getImplementationVersion();
      return new String[] {"espalier " + (version == null ? "development" : version)};
    }
  }

  public static void main(String[] args) {
    System.exit(run(args));
  }

  /** Runs one command and returns its exit code. */
  static int run(String... args) {
    return run(commandLine(), args);
  }

  static int run(CommandLine line, String... args) {
    try {
      return line.execute(args);
    } catch (Error e) { // picocli passes these through, and memory may well run out
      return Failures.execution(e, line.getParseResult());
    }
  }

  static CommandLine commandLine() {
    return new CommandLine(new Main())
        .setCaseInsensitiveEnumValuesAllowed(true)
        .setExpandAtFiles(false) // a prompt may begin with @
        .setParameterExceptionHandler(Failures::usage)
        .setExecutionExceptionHandler((e, command, parsed) -> Failures.execution(e, parsed))
        .setUsageHelpAutoWidth(true);
  }

  @Override
  public void run() {
    throw new CommandLine.ParameterException(
        spec.commandLine(), "a command is missing; espalier --help lists them");
  }
}
