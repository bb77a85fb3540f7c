package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.format.InputException;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.concurrent.Callable;
import org.junit.jupiter.api.Test;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;

/** A failure of any kind is one line; where it happened is told only to who asks. */
class FailuresTest {

  @Command(name = "fail")
  private static final class Fail implements Callable<Integer> {
    @Mixin private Common common;
    private final Throwable failure;

    Fail(Throwable failure) {
      this.failure = failure;
    }

    @Override
    public Integer call() throws Exception {
      if (failure instanceof Error error) {
        throw error;
      }
      throw (Exception) failure;
    }
  }

  private static Outcome fail(Throwable failure, String... options) {
    CommandLine line = Main.commandLine().addSubcommand(new Fail(failure));
    String[] args = new String[options.length + 1];
    args[0] = "fail";
    System.arraycopy(options, 0, args, 1, options.length);
    return Outcome.of(() -> Main.run(line, args));
  }

  private static void assertLine(int code, String line, Outcome outcome) {
    assertEquals(code, outcome.code(), outcome.err());
    assertEquals("espalier: " + line, outcome.err().stripTrailing());
    assertEquals("", outcome.out());
  }

  @Test
  void unusableInputIsTwo() {
    assertLine(2, "x.npy: is empty", fail(new InputException("x.npy: is empty")));
  }

  @Test
  void anythingElseIsOne() {
    assertLine(1, "two lines", fail(new IllegalStateException("two\n  lines")));
  }

  @Test
  void aFailureOfInputOrOutputTellsItsCause() {
    assertLine(
        1,
        "x cannot be read (no space)",
        fail(new UncheckedIOException("x cannot be read", new IOException("no space"))));
    assertLine(
        1,
        "x cannot be read: no space",
        fail(new UncheckedIOException("x cannot be read: no space", new IOException("no space"))));
  }

  @Test
  void memoryThatRanOut() {
    assertLine(1, "out of memory: 9 GiB asked for", fail(new OutOfMemoryError("9 GiB asked for")));
  }

  @Test
  void anErrorWhoseMessageSaysLittle() {
    assertLine(1, "java.lang.NoClassDefFoundError: a/B", fail(new NoClassDefFoundError("a/B")));
  }

  @Test
  void verboseShowsWhereItHappened() {
    for (Throwable failure :
        new Throwable[] {new IllegalStateException("why"), new OutOfMemoryError("why")}) {
      Outcome outcome = fail(failure, "--verbose");
      assertEquals(1, outcome.code());
      assertTrue(outcome.err().contains("\tat espalier.cli.FailuresTest"), outcome.err());
    }
  }
}
