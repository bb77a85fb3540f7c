package espalier.device;

import espalier.bindings.cudart.CudaRuntime;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;

/** Events of a stream, which the GPU stamps as it passes them. */
final class CudaClock implements Clock {

  private final MemorySegment stream;
  private final List<MemorySegment> events = new ArrayList<>();

  CudaClock(MemorySegment stream) {
    this.stream = stream;
    mark();
  }

  static MemorySegment newEvent() {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment pointer = arena.allocate(ValueLayout.ADDRESS);
      CudaException.check("cudaEventCreate", CudaRuntime.cudaEventCreate(pointer));
      return pointer.get(ValueLayout.ADDRESS, 0);
    }
  }

  @Override
  public long mark() {
    events.add(newEvent());
    CudaException.check("cudaEventRecord", CudaRuntime.cudaEventRecord(events.getLast(), stream));
    return events.size() - 1;
  }

  @Override
  public void settle() {
    CudaException.check("cudaEventSynchronize", CudaRuntime.cudaEventSynchronize(events.getLast()));
  }

  @Override
  public double seconds(long mark) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment milliseconds = arena.allocate(ValueLayout.JAVA_FLOAT);
      CudaException.check(
          "cudaEventElapsedTime",
          CudaRuntime.cudaEventElapsedTime(
              milliseconds, events.getFirst(), events.get(Math.toIntExact(mark))));
      return milliseconds.get(ValueLayout.JAVA_FLOAT, 0) * 1e-3;
    }
  }

  /** Statuses are not looked at: after a fault CUDA answers every call with it. */
  @Override
  public void close() {
    events.forEach(CudaRuntime::cudaEventDestroy);
    events.clear();
  }
}
