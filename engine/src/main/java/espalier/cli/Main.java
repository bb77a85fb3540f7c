package espalier.cli;

import espalier.distributed.Launch;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.ParseResult;

/**
 * The command line. Results go to standard output, everything else to standard error. Exit codes: 0
 * done, 2 wrong usage or unusable input, 1 anything else.
 */
@Command(
    name = "espalier",
    description = "Adapts a language model around a frozen sparse autoencoder.",
    synopsisSubcommandLabel = "COMMAND",
    mixinStandardHelpOptions = true,
    versionProvider = Main.Version.class)
public final class Main implements Runnable {

  private static final List<Class<?>> COMMANDS =
      List.of(
          AdaptCommand.class,
          EvaluateCommand.class,
          MergeCommand.class,
          TrainSaeCommand.class,
          PretrainCommand.class,
          GenerateCommand.class,
          InspectCommand.class,
          ReportCommand.class,
          DoctorCommand.class,
          DemoCommand.class,
          ReproduceCommand.class,
          ScoreCommand.class,
          ProbeCommand.class,
          SteerCommand.class,
          BenchCommand.class);

  @CommandLine.Spec private CommandLine.Model.CommandSpec spec;

  /** The version in the jar's manifest. */
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
    return run(commandLine(args), args);
  }

  static int run(CommandLine line, String... args) {
    // Figures are read by people and programs of any language: no decimal commas, no other digits.
    Locale.setDefault(Locale.ROOT);
    int code;
    try {
      code = line.execute(args);
    } catch (Error e) { // picocli passes these through, and memory may well run out
      code = Failures.execution(e, line.getParseResult());
    }
    return code == 0 && StandardOutput.isLost() ? Failures.lostOutput() : code;
  }

  /**
   * Whether this process reports wrong options: all ranks see the same fault, the first reports it.
   */
  static boolean speaks() {
    return Launch.detect(System.getenv()).rank() == 0;
  }

  /** Refuses to run a command on several ranks that would do the same work on each. */
  private static int execute(ParseResult parsed) {
    Launch launch = Launch.detect(System.getenv());
    if (!launch.isAlone() && parsed.hasSubcommand()) {
      CommandSpec command = parsed.subcommand().commandSpec();
      boolean spreads = command.mixins().values().stream().anyMatch(Main::isSpread);
      if (!spreads) {
        throw new CommandLine.ParameterException(
            command.commandLine(),
            "espalier %s runs as one process; %s started %d"
                .formatted(command.name(), launch.starter(), launch.size()));
      }
    }
    return new CommandLine.RunLast().execute(parsed);
  }

  private static boolean isSpread(CommandSpec mixin) {
    return mixin.userObject() instanceof Spread;
  }

  /**
   * Picocli reads options from their classes by reflection; for all commands together that would be
   * a third of the time that help takes. So it reads only those of the commands that the arguments
   * name; of the others it gets just the line for the list of commands.
   */
  static CommandLine commandLine(String... args) {
    CommandLine line = new CommandLine(new Main());
    for (Class<?> type : COMMANDS) {
      Command command = type.getAnnotation(Command.class);
      if (Arrays.asList(args).contains(command.name())) {
        line.addSubcommand(type);
      } else {
        CommandSpec said = CommandSpec.create();
        said.usageMessage().description(command.description());
        line.addSubcommand(command.name(), said);
      }
    }
    return line.setExecutionStrategy(Main::execute)
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
