package espalier.device;

import espalier.bindings.cudart.CudaRuntime;

/** A call into CUDA failed: which one, and what CUDA says of it. */
public class CudaException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  CudaException(String message) {
    super(message);
  }

  /** Throws unless {@code status}, a cudaError_t, is success. */
  static void check(String call, int status) {
    if (status != CudaRuntime.cudaSuccess()) {
      throw new CudaException(
          "%s: %s (%s)"
              .formatted(
                  call,
                  CudaRuntime.cudaGetErrorString(status).getString(0),
                  CudaRuntime.cudaGetErrorName(status).getString(0)));
    }
  }
}
