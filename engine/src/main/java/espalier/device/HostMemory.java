package espalier.device;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;

/**
 * The C library's allocator. Unlike {@link Arena#allocate} it does not write to what it hands out,
 * so that a list with room for the worst case costs only the pages that are used.
 */
final class HostMemory implements AutoCloseable {

  private static final long ALIGNMENT = 64;
  private static final MethodHandle ALIGNED_ALLOC =
      function(
          "aligned_alloc",
          FunctionDescriptor.of(ValueLayout.ADDRESS, ValueLayout.JAVA_LONG, ValueLayout.JAVA_LONG));
  private static final MethodHandle FREE =
      function("free", FunctionDescriptor.ofVoid(ValueLayout.ADDRESS));

  private final Arena arena = Arena.ofShared();
  private long allocated;

  MemorySegment allocate(long bytes) {
    if (bytes < 1) {
      throw new IllegalArgumentException("no memory of " + bytes + " bytes");
    }
    long padded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    MemorySegment memory = alignedAlloc(padded);
    if (memory.equals(MemorySegment.NULL)) {
      throw new OutOfMemoryError(
          "%.2f GiB of native memory asked for, %.2f GiB in use; try a smaller --batch or --context"
              .formatted(gib(padded), gib(allocated)));
    }
    allocated += padded;
    return memory.reinterpret(bytes, arena, HostMemory::free);
  }

  long allocatedBytes() {
    return allocated;
  }

  @Override
  public void close() {
    arena.close();
  }

  private static double gib(long bytes) {
    return bytes / (double) (1L << 30);
  }

  private static MemorySegment alignedAlloc(long bytes) {
    try {
      return (MemorySegment) ALIGNED_ALLOC.invokeExact(ALIGNMENT, bytes);
    } catch (Throwable e) {
      throw new AssertionError("a call into the C library throws nothing", e);
    }
  }

  private static void free(MemorySegment memory) {
    try {
      FREE.invokeExact(memory);
    } catch (Throwable e) {
      throw new AssertionError("a call into the C library throws nothing", e);
    }
  }

  private static MethodHandle function(String name, FunctionDescriptor type) {
    Linker linker = Linker.nativeLinker();
    return linker.downcallHandle(linker.defaultLookup().find(name).orElseThrow(), type);
  }
}
