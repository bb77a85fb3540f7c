package espalier.device;

import static espalier.bindings.NativeException.check;
import static espalier.bindings.kernels.Kernels.*;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * Copies between the host's memory and the device's. Each call waits until everything queued before
 * is done, so none of them belongs inside a step. Device memory must not be read or written in any
 * other way: on a GPU its addresses mean nothing to the host.
 */
public final class Transfer {

  private Transfer() {}

  /** Whether the device's memory is the host's, so that {@link #onHost} copies nothing. */
  private static final class Direct {
    static final boolean IS = DeviceChoice.current().kind() == DeviceChoice.Kind.CPU;
  }

  /** Copies all of {@code source}; each may be host memory or device memory. */
  public static void copy(MemorySegment source, MemorySegment target) {
    Arguments.bytes("esp_transfer", "target", target, source.byteSize(), 1);
    if (Direct.IS) {
      MemorySegment.copy(source, 0, target, 0, source.byteSize());
      return;
    }
    check("esp_transfer", esp_transfer(target, source, source.byteSize()));
  }

  /** Device memory as the host can read it: itself, or a copy of it. */
  public static MemorySegment onHost(MemorySegment device) {
    if (Direct.IS || device.byteSize() == 0) {
      return device;
    }
    MemorySegment host = Arena.ofAuto().allocate(device.byteSize(), Long.BYTES);
    copy(device, host);
    return host;
  }

  /** Fills device memory with zeros. */
  public static void clear(MemorySegment device) {
    fill(device, (byte) 0);
  }

  /** Fills device memory with one byte. */
  public static void fill(MemorySegment device, byte value) {
    if (Direct.IS) {
      device.fill(value);
      return;
    }
    try (Arena arena = Arena.ofConfined()) {
      copy(arena.allocate(device.byteSize()).fill(value), device);
    }
  }

  public static float[] floats(MemorySegment device) {
    return onHost(device).toArray(ValueLayout.JAVA_FLOAT);
  }

  public static double[] doubles(MemorySegment device) {
    return onHost(device).toArray(ValueLayout.JAVA_DOUBLE);
  }

  public static int[] ints(MemorySegment device) {
    return onHost(device).toArray(ValueLayout.JAVA_INT);
  }

  public static long[] longs(MemorySegment device) {
    return onHost(device).toArray(ValueLayout.JAVA_LONG);
  }

  public static byte[] bytes(MemorySegment device) {
    return onHost(device).toArray(ValueLayout.JAVA_BYTE);
  }

  /** Overwrites the start of device memory. */
  public static void write(MemorySegment device, float... values) {
    write(device, MemorySegment.ofArray(values));
  }

  public static void write(MemorySegment device, int... values) {
    write(device, MemorySegment.ofArray(values));
  }

  public static void write(MemorySegment device, byte... values) {
    write(device, MemorySegment.ofArray(values));
  }

  /**
   * @param values of any kind, a Java array's too
   */
  public static void write(MemorySegment device, MemorySegment values) {
    if (Direct.IS) {
      MemorySegment.copy(values, 0, device, 0, values.byteSize());
      return;
    }
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment host = arena.allocate(values.byteSize(), Long.BYTES);
      host.copyFrom(values);
      copy(host, device);
    }
  }
}
