package espalier;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.format.InputException;
import java.nio.file.Path;
import org.junit.jupiter.api.function.Executable;

/** What must be refused, and how: one line that names the file and the fault. */
public final class Refused {

  private Refused() {}

  /** The message must begin with the file and contain every one of {@code parts}. */
  public static void assertRefused(Path file, Executable reading, String... parts) {
    String message = assertThrows(InputException.class, reading).getMessage();
    assertTrue(message.startsWith(file + ": "), () -> message + "\n does not begin with " + file);
    for (String part : parts) {
      assertTrue(message.contains(part), () -> message + "\n does not say: " + part);
    }
    assertEquals(1, message.lines().count(), message);
  }
}
