package espalier.bindings;

import espalier.bindings.kernels.Kernels;

/** A kernel refused to run: which one, its status, and what it complained about. */
public final class NativeException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  /** The function that was called, such as {@code esp_gemm}. */
  private final String operation;

  /** What it returned, one of {@code esp_status}. */
  private final int status;

  private NativeException(String operation, int status, String complaint) {
    super("%s: %s: %s".formatted(operation, name(status), complaint));
    this.operation = operation;
    this.status = status;
  }

  public String operation() {
    return operation;
  }

  public int status() {
    return status;
  }

  /**
   * Turns the status that a function of {@code espalier.h} returned into an exception unless it is
   * {@code ESP_OK}. Must run on the thread that made the call: the library keeps its complaint per
   * thread.
   */
  public static void check(String operation, int status) {
    if (status != Kernels.ESP_OK()) {
      throw new NativeException(operation, status, Kernels.esp_last_error().getString(0));
    }
  }

  private static String name(int status) {
    if (status == Kernels.ESP_INVALID_ARGUMENT()) return "invalid argument";
    if (status == Kernels.ESP_CAPACITY()) return "capacity exceeded";
    if (status == Kernels.ESP_NOT_READY()) return "not ready";
    if (status == Kernels.ESP_DEVICE_ERROR()) return "the device failed";
    return "status " + status;
  }
}
