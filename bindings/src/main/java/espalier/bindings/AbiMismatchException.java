package espalier.bindings;

import java.nio.file.Path;

/** The kernel library was built from another {@code espalier.h} than the bindings. */
public final class AbiMismatchException extends NativeUnavailableException {
  private static final long serialVersionUID = 1L;

  private final int expected;
  private final int found;

  AbiMismatchException(Path library, int expected, int found) {
    super(
        "%s has ABI version %d, the bindings need %d: build both from the same sources"
            .formatted(library, found, expected));
    this.expected = expected;
    this.found = found;
  }

  /** {@code ESP_ABI_VERSION} of the header that the bindings were generated from. */
  public int expected() {
    return expected;
  }

  /** What the library says of itself. */
  public int found() {
    return found;
  }
}
