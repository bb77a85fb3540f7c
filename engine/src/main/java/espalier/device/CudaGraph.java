package espalier.device;

import espalier.bindings.cudart.CudaRuntime;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Optional;

/**
 * Work that is captured as one CUDA graph and then launched as a whole. The first run, and the
 * first after {@link #forget}, is call by call, so that whatever a library sets up and CUDA loads
 * at its first use is there; the second is captured. Where that fails, the reason is kept and the
 * work goes on call by call.
 */
final class CudaGraph implements Replay {

  private final CudaDevice device;
  private final Runnable work;
  private boolean warm;
  private MemorySegment executable = MemorySegment.NULL;
  private String failure;

  CudaGraph(CudaDevice device, Runnable work) {
    this.device = device;
    this.work = work;
  }

  @Override
  public void run() {
    if (!warm || failure != null || device.isProfiled()) {
      runWork();
      warm = true;
      return;
    }
    if (executable.equals(MemorySegment.NULL) && !capture()) {
      runWork();
      return;
    }
    CudaException.check(
        "cudaGraphLaunch", CudaRuntime.cudaGraphLaunch(executable, device.stream()));
  }

  private void runWork() {
    device.replaying(true);
    try {
      work.run();
    } finally {
      device.replaying(false);
    }
  }

  /** Captures the work as a graph; nothing of it runs meanwhile. Returns whether that succeeded. */
  private boolean capture() {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment pointer = arena.allocate(ValueLayout.ADDRESS);
      try {
        CudaException.check(
            "cudaStreamBeginCapture",
            CudaRuntime.cudaStreamBeginCapture(
                device.stream(), CudaRuntime.cudaStreamCaptureModeThreadLocal()));
      } catch (CudaException e) {
        failed(e);
        return false;
      }
      device.capturing(true);
      RuntimeException refused = null;
      try {
        runWork();
      } catch (RuntimeException e) {
        refused = e; // not thrown before the capture is ended
      } finally {
        device.capturing(false);
      }
      int ended = CudaRuntime.cudaStreamEndCapture(device.stream(), pointer);
      MemorySegment graph = pointer.get(ValueLayout.ADDRESS, 0);
      try {
        if (refused != null) {
          throw refused;
        }
        CudaException.check("cudaStreamEndCapture", ended);
        device.kernels().prepareGraph(graph);
        CudaException.check(
            "cudaGraphInstantiate", CudaRuntime.cudaGraphInstantiate(pointer, graph, 0));
        executable = pointer.get(ValueLayout.ADDRESS, 0);
        return true;
      } catch (RuntimeException e) { // what is wrong without a capture, too, will be said again
        failed(e);
        return false;
      } finally {
        if (!graph.equals(MemorySegment.NULL)) {
          CudaRuntime.cudaGraphDestroy(graph);
        }
      }
    }
  }

  /** What was refused is known now: later calls must not be blamed for it. */
  private void failed(RuntimeException reason) {
    CudaRuntime.cudaGetLastError();
    failure = reason.getMessage();
  }

  @Override
  public void forget() {
    warm = false;
    if (!executable.equals(MemorySegment.NULL)) {
      device.synchronize(); // a graph that runs must not be destroyed
      CudaException.check("cudaGraphExecDestroy", CudaRuntime.cudaGraphExecDestroy(executable));
      executable = MemorySegment.NULL;
    }
  }

  /** As {@link #forget}, when nothing can be thrown any more. */
  void close() {
    if (!executable.equals(MemorySegment.NULL)) {
      CudaRuntime.cudaGraphExecDestroy(executable);
      executable = MemorySegment.NULL;
    }
  }

  @Override
  public String describe() {
    return failure == null ? "as one CUDA graph" : "call by call, as capturing failed: " + failure;
  }

  @Override
  public Optional<String> refusal() {
    return Optional.ofNullable(failure);
  }
}
