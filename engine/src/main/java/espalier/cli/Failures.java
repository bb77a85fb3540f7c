package espalier.cli;

import espalier.distributed.LaunchException;
import espalier.format.InputException;
import java.io.UncheckedIOException;
import java.util.Arrays;
import java.util.Locale;
import java.util.stream.Collectors;
import picocli.CommandLine.MissingParameterException;
import picocli.CommandLine.Model.ArgSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.OverwrittenOptionException;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ParseResult;
import picocli.CommandLine.UnmatchedArgumentException;

/**
 * Every failure is one line on standard error, in our words; a stack trace only where {@code
 * --verbose} asks for it.
 */
final class Failures {

  static final int UNUSABLE = 2;
  private static final int OTHER = 1;

  private Failures() {}

  /** The options themselves are wrong. */
  static int usage(ParameterException e, String[] args) {
    if (Main.speaks()) {
      System.err.println("espalier: " + oneLine(explain(e)));
    }
    return UNUSABLE;
  }

  private static String explain(ParameterException e) {
    return switch (e) {
      // A misspelt option leaves one missing too: name what was written.
      case MissingParameterException missing
          when !missing.getCommandLine().getUnmatchedArguments().isEmpty() ->
          unknown(missing.getCommandLine().getUnmatchedArguments().getFirst());
      case MissingParameterException missing ->
          "missing: "
              + missing.getMissing().stream().map(Failures::name).collect(Collectors.joining(", "));
      case OverwrittenOptionException twice -> name(twice.getOverwritten()) + " is given twice";
      case UnmatchedArgumentException unmatched -> unknown(unmatched.getUnmatched().getFirst());
      default -> {
        if (e.getCause() instanceof InputException input) {
          yield input.getMessage();
        }
        yield e.getArgSpec() == null
            ? e.getMessage()
            : name(e.getArgSpec()) + " " + e.getValue() + ": " + expected(e.getArgSpec());
      }
    };
  }

  private static String unknown(String argument) {
    return argument + " is no option or argument of this command";
  }

  private static String name(ArgSpec argument) {
    return argument instanceof OptionSpec option ? option.longestName() : argument.paramLabel();
  }

  private static String expected(ArgSpec argument) {
    Class<?> type = argument.auxiliaryTypes()[0];
    if (type.isEnum()) {
      String names =
          Arrays.stream(type.getEnumConstants())
              .map(constant -> constant.toString().toLowerCase(Locale.ROOT))
              .collect(Collectors.joining(", "));
      return "expected one of " + names;
    }
    if (type == int.class || type == Integer.class || type == long.class) {
      return "expected a whole number";
    }
    if (type == double.class || type == Double.class) {
      return "expected a number";
    }
    return "is not understood";
  }

  /** The job failed. */
  static int execution(Throwable e, ParseResult parsed) {
    boolean verbose = parsed.hasSubcommand() && parsed.subcommand().hasMatchedOption("--verbose");
    if (verbose) {
      e.printStackTrace();
    } else {
      System.err.println("espalier: " + line(e));
    }
    return exitCode(e);
  }

  /** The job is done, but its results could not be written to standard output. */
  static int lostOutput() {
    System.err.println("espalier: standard output cannot be written: the result is lost");
    return OTHER;
  }

  /** What a user is told of a failure. */
  static String line(Throwable e) {
    return oneLine(message(e));
  }

  static int exitCode(Throwable e) {
    return e instanceof InputException || e instanceof LaunchException ? UNUSABLE : OTHER;
  }

  private static String message(Throwable e) {
    if (e instanceof OutOfMemoryError) {
      return "out of memory: " + e.getMessage();
    }
    if (e instanceof Error) {
      return e.toString(); // its message alone may be no more than a class's name
    }
    if (e instanceof UncheckedIOException io) {
      String why = String.valueOf(io.getCause().getMessage());
      return io.getMessage().endsWith(why) ? io.getMessage() : io.getMessage() + " (" + why + ")";
    }
    return e.getMessage() == null ? e.toString() : e.getMessage();
  }

  private static String oneLine(String text) {
    return text.replaceAll("\\s*\\R\\s*", " ");
  }
}
