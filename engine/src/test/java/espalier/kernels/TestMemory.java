package espalier.kernels;

import espalier.device.Device;
import espalier.device.DeviceChoice;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/**
 * Where the buffers of one test lie: in the device's memory. The host's is taken anew for each
 * buffer and freed after the test, so that AddressSanitizer sees its ends; a GPU's comes in chunks
 * that the next test uses again.
 */
sealed interface TestMemory extends AutoCloseable {

  /** Aligned to 64 bytes. */
  MemorySegment allocate(long bytes);

  @Override
  void close();

  static TestMemory of(Device device) {
    return DeviceChoice.current().kind() == DeviceChoice.Kind.CPU
        ? new Host(Arena.ofConfined())
        : new Chunks(device);
  }

  record Host(Arena arena) implements TestMemory {
    @Override
    public MemorySegment allocate(long bytes) {
      return arena.allocate(bytes, 64);
    }

    @Override
    public void close() {
      arena.close();
    }
  }

  final class Chunks implements TestMemory {
    private static final long CHUNK = 16L << 20;
    private static final List<MemorySegment> FREE = new ArrayList<>();
    private static Device owner;

    private final Device device;
    private final List<MemorySegment> used = new ArrayList<>();
    private long at;

    Chunks(Device device) {
      if (owner != device) { // chunks go with their device
        FREE.clear();
        owner = device;
      }
      this.device = device;
    }

    @Override
    public MemorySegment allocate(long bytes) {
      long padded = (bytes + 63) / 64 * 64;
      if (used.isEmpty() || at + padded > used.getLast().byteSize()) {
        used.add(
            FREE.isEmpty() || padded > CHUNK
                ? device.allocate(Math.max(CHUNK, padded))
                : FREE.removeLast());
        at = 0;
      }
      MemorySegment buffer = used.getLast().asSlice(at, bytes);
      at += padded;
      return buffer;
    }

    @Override
    public void close() {
      FREE.addAll(used);
      used.clear();
    }
  }
}
