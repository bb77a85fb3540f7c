package espalier.distributed;

/**
 * The processes of a job cannot come together; the message says why and what to do, in one line.
 */
public final class LaunchException extends RuntimeException {

  private static final long serialVersionUID = 1L;

  LaunchException(String message) {
    super(message);
  }

  LaunchException(String message, Throwable cause) {
    super(message, cause);
  }
}
