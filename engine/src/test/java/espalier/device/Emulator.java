package espalier.device;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.nio.file.Path;

/** What tests ask of the emulator: see native/emulator/controls.h. */
public final class Emulator {

  private static final SymbolLookup LIBRARY =
      SymbolLookup.libraryLookup(
          Path.of(
              System.getProperty("espalier.native.path", System.getenv("ESPALIER_NATIVE_PATH")),
              "libcudart_emulator.so"),
          Arena.global());

  private Emulator() {}

  /** The device's memory, in bytes. */
  public static void memory(long bytes) {
    call("memory", FunctionDescriptor.ofVoid(ValueLayout.JAVA_LONG), bytes);
  }

  /** The nth call from now of a function fails; "*" any of the runtime's. */
  public static void fail(String function, long nth, int status) {
    call(
        "fail",
        FunctionDescriptor.ofVoid(ValueLayout.ADDRESS, ValueLayout.JAVA_LONG, ValueLayout.JAVA_INT),
        text(function),
        nth,
        status);
  }

  public static void reset() {
    call("reset", FunctionDescriptor.ofVoid());
  }

  /** Calls of a function since the last reset. */
  public static long calls(String function) {
    return (long)
        call(
            "calls",
            FunctionDescriptor.of(ValueLayout.JAVA_LONG, ValueLayout.ADDRESS),
            text(function));
  }

  /** How many of a kind are not freed. */
  public static long live(String kind) {
    return (long)
        call("live", FunctionDescriptor.of(ValueLayout.JAVA_LONG, ValueLayout.ADDRESS), text(kind));
  }

  private static MemorySegment text(String value) {
    return Arena.ofAuto().allocateFrom(value);
  }

  private static Object call(String name, FunctionDescriptor type, Object... arguments) {
    MethodHandle handle =
        Linker.nativeLinker()
            .downcallHandle(LIBRARY.find("espalier_emulator_" + name).orElseThrow(), type);
    try {
      return handle.invokeWithArguments(arguments);
    } catch (Throwable e) {
      throw new AssertionError(name, e);
    }
  }
}
