package espalier.train;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import org.junit.jupiter.api.Test;

class InterruptionTest {

  /** What is said until the exit goes on. */
  private static String hold(Interruption interruption) {
    PrintStream err = System.err;
    ByteArrayOutputStream said = new ByteArrayOutputStream();
    System.setErr(new PrintStream(said));
    try {
      interruption.hold();
    } finally {
      System.setErr(err);
    }
    return said.toString();
  }

  @Test
  void anExitWaitsForTheJobToEnd() {
    Interruption interruption = new Interruption();
    assertFalse(interruption.isRequested());
    interruption.close();
    assertEquals("", hold(interruption));
    assertTrue(interruption.isRequested());
  }

  @Test
  void anExitThatWaitsNoLongerSaysSo() {
    String said = hold(new Interruption(0));
    assertTrue(said.startsWith("espalier: stopped within a step"), said);
    assertEquals(1, said.lines().count());
  }
}
