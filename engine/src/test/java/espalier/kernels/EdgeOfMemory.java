package espalier.kernels;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;

/**
 * Memory of the host that ends where a page begins that nobody may touch: who reads behind its end,
 * even if he makes nothing of it, ends the process.
 */
final class EdgeOfMemory implements AutoCloseable {

  private static final long PAGE = 4096;
  private static final int READ_AND_WRITE = 3;
  private static final int NOTHING = 0;
  private static final int PRIVATE_AND_ANONYMOUS = 0x22;

  private static final MethodHandle MMAP =
      function(
          "mmap",
          FunctionDescriptor.of(
              ValueLayout.ADDRESS,
              ValueLayout.ADDRESS,
              ValueLayout.JAVA_LONG,
              ValueLayout.JAVA_INT,
              ValueLayout.JAVA_INT,
              ValueLayout.JAVA_INT,
              ValueLayout.JAVA_LONG));
  private static final MethodHandle MPROTECT =
      function(
          "mprotect",
          FunctionDescriptor.of(
              ValueLayout.JAVA_INT,
              ValueLayout.ADDRESS,
              ValueLayout.JAVA_LONG,
              ValueLayout.JAVA_INT));
  private static final MethodHandle MUNMAP =
      function(
          "munmap",
          FunctionDescriptor.of(ValueLayout.JAVA_INT, ValueLayout.ADDRESS, ValueLayout.JAVA_LONG));

  private final Arena arena = Arena.ofConfined();

  /** A copy of {@code content} that ends at the edge. */
  MemorySegment copy(MemorySegment content) {
    MemorySegment copy = allocate(content.byteSize());
    copy.copyFrom(content);
    return copy;
  }

  /** Zeros that end at the edge. */
  MemorySegment allocate(long bytes) {
    long size = (bytes + PAGE - 1) / PAGE * PAGE;
    MemorySegment pages = map(size + PAGE).reinterpret(size + PAGE, arena, EdgeOfMemory::unmap);
    protect(pages.asSlice(size));
    return pages.asSlice(size - bytes, bytes);
  }

  @Override
  public void close() {
    arena.close();
  }

  private static MemorySegment map(long bytes) {
    MemorySegment pages =
        called(
            () ->
                (MemorySegment)
                    MMAP.invokeExact(
                        MemorySegment.NULL, bytes, READ_AND_WRITE, PRIVATE_AND_ANONYMOUS, -1, 0L));
    if (pages.address() == -1) {
      throw new OutOfMemoryError("mmap of " + bytes + " bytes");
    }
    return pages;
  }

  private static void protect(MemorySegment pages) {
    if (called(() -> (int) MPROTECT.invokeExact(pages, pages.byteSize(), NOTHING)) != 0) {
      throw new AssertionError("mprotect");
    }
  }

  private static void unmap(MemorySegment pages) {
    if (called(() -> (int) MUNMAP.invokeExact(pages, pages.byteSize())) != 0) {
      throw new AssertionError("munmap");
    }
  }

  private interface Call<T> {
    T run() throws Throwable;
  }

  private static <T> T called(Call<T> call) {
    try {
      return call.run();
    } catch (Throwable e) {
      throw new AssertionError("a call into the C library throws nothing", e);
    }
  }

  private static MethodHandle function(String name, FunctionDescriptor type) {
    Linker linker = Linker.nativeLinker();
    return linker.downcallHandle(linker.defaultLookup().find(name).orElseThrow(), type);
  }
}
