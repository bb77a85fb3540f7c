package espalier.bindings;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;

/**
 * The environment that native libraries read when they are loaded. Java's own copy of it cannot be
 * changed, the C library's can.
 */
final class ProcessEnvironment {
  private ProcessEnvironment() {}

  private static final MethodHandle SETENV =
      Linker.nativeLinker()
          .downcallHandle(
              Linker.nativeLinker().defaultLookup().find("setenv").orElseThrow(),
              FunctionDescriptor.of(
                  ValueLayout.JAVA_INT,
                  ValueLayout.ADDRESS,
                  ValueLayout.ADDRESS,
                  ValueLayout.JAVA_INT));

  /** Sets a variable unless the user has. */
  static void setDefault(String name, String value) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment nameText = arena.allocateFrom(name);
      MemorySegment valueText = arena.allocateFrom(value);
      int status = (int) SETENV.invokeExact(nameText, valueText, 0);
      if (status != 0) throw new IllegalStateException("setenv refused " + name);
    } catch (RuntimeException | Error e) {
      throw e;
    } catch (Throwable e) {
      throw new AssertionError("a call into the C library throws nothing checked", e);
    }
  }
}
