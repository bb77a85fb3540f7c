package espalier.format;

import java.nio.file.Path;

/**
 * Input that cannot be used: a file, an option, or something in one. The message is one line in our
 * words that names it and the fault; the command line prints it and exits with 2.
 */
public final class InputException extends RuntimeException {

  private static final long serialVersionUID = 1L;

  public InputException(String message) {
    super(oneLine(message));
  }

  /** A file and its fault. */
  public InputException(Path file, String fault) {
    super(oneLine(file + ": " + fault));
  }

  /** Names from files may hold anything, such as line breaks or a terminal's control sequences. */
  private static String oneLine(String message) {
    return message.replaceAll("[\\p{Cntrl}\u2028\u2029]", "?");
  }
}
