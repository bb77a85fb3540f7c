package espalier.cli;

import espalier.device.DeviceChoice;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.function.IntSupplier;

/**
 * What a command line came to.
 *
 * @param code exit code
 * @param out standard output
 * @param err standard error
 */
record Outcome(int code, String out, String err) {

  static Outcome of(String... args) {
    return of(List.of(args));
  }

  static Outcome of(List<String> args) {
    return of(() -> Main.run(args.toArray(String[]::new)));
  }

  static Outcome of(IntSupplier command) {
    PrintStream out = System.out;
    PrintStream err = System.err;
    DeviceChoice chosen = DeviceChoice.current(); // commands choose for the process
    ByteArrayOutputStream newOut = new ByteArrayOutputStream();
    ByteArrayOutputStream newErr = new ByteArrayOutputStream();
    try {
      System.setOut(new PrintStream(newOut, true, StandardCharsets.UTF_8));
      System.setErr(new PrintStream(newErr, true, StandardCharsets.UTF_8));
      int code = command.getAsInt();
      return new Outcome(
          code, newOut.toString(StandardCharsets.UTF_8), newErr.toString(StandardCharsets.UTF_8));
    } finally {
      System.setOut(out);
      System.setErr(err);
      DeviceChoice.choose(chosen);
    }
  }
}
