package espalier.format;

import java.nio.file.Path;

/**
 * Input that cannot be used: a file, an option, or something in one of these. The message is one
 * line in our own words that names it and says what is wrong. The command line prints the message
 * and exits with 2.
 */
public final class InputException extends RuntimeException {

  private static final long serialVersionUID = 1L;

  public InputException(String message) {
    super(oneLine(message));
  }

  /** A fault of a file. */
  public InputException(Path file, String fault) {
    super(oneLine(file + ": " + fault));
  }

  /**
   * Makes a message one line: names from files may contain anything, such as line breaks or a
   * terminal's control sequences.
   */
  private static String oneLine(String message) {
    return message.replaceAll("[\\p{Cntrl}\u2028\u2029]", "?");
  }
}
