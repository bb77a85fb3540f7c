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
    return new CommandLine(new Main())
        .setCaseInsensitiveEnumValuesAllowed(true)
        .setParameterExceptionHandler(Failures::usage)
        .setExecutionExceptionHandler(Failures::execution)
        .setUsageHelpAutoWidth(true)
        .execute(args);
  }

  @Override
  public void run() {
    throw new CommandLine.ParameterException(
        spec.commandLine(), "a command is missing; espalier --help lists them");
  }
}
