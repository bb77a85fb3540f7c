package espalier.format;

import java.nio.file.Path;

/**
 * Input that cannot be used: a file, an option, or something in one. The message is one line in our
 * words that names it and the fault; the command line prints it and exits with 2.
 */
public final class InputException extends RuntimeException {

  private static final long serialVersionUID = 1L;

  public InputException(String message) {
    super(message);
  }

  /** A file and its fault. */
  public InputException(Path file, String fault) {
    super(file + ": " + fault);
  }
}
