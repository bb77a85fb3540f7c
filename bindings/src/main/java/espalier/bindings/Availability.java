package espalier.bindings;

import java.nio.file.Path;

/** Whether a native library can be used, and if not, why. */
public sealed interface Availability {

  /** Loaded from {@code path}; {@code description} is what the library says of itself. */
  record Available(Path path, String description) implements Availability {}

  /** Not usable; the cause's message is the reason, in one line. */
  record Unavailable(NativeUnavailableException cause) implements Availability {
    public String reason() {
      return cause.getMessage();
    }
  }
}
