package espalier.device;

/** A device that was asked for cannot be used; the message says why, in one line. */
public final class DeviceUnavailableException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  DeviceUnavailableException(String message) {
    super(message);
  }
}
