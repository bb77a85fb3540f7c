package espalier.distributed;

import espalier.bindings.NativeLibraries;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;

/**
 * A machine's processors, shared by its ranks. Launchers differ: one binds each rank to a core,
 * another all ranks to all cores; too many threads are far worse than a few too little.
 *
 * @param machine that does not change while the machine runs, the same in its containers
 * @param mask bit i: may run on processor i
 */
record Processors(String machine, BigInteger mask) {

  /** Enough for the identity and 4096 processors. */
  private static final int BYTES = 2048;

  /** Sets the number of this rank's threads for the kernels, which must not be loaded yet. */
  static void share(Ranks ranks) {
    Processors own = own();
    byte[] all = ranks.gather(own.toBytes());
    int sharing = 0;
    for (int r = 0; r < ranks.size(); r++) {
      Processors other = fromBytes(Arrays.copyOfRange(all, r * BYTES, (r + 1) * BYTES));
      sharing += own.overlaps(other) ? 1 : 0;
    }
    // Java counts those of its mask, and fewer where a container has less time than processors.
    NativeLibraries.limitThreads(Math.max(1, Runtime.getRuntime().availableProcessors() / sharing));
  }

  boolean overlaps(Processors other) {
    return machine.equals(other.machine) && mask.and(other.mask).signum() != 0;
  }

  private static Processors own() {
    try {
      String machine = Files.readString(Path.of("/proc/sys/kernel/random/boot_id")).strip();
      String mask =
          Files.readAllLines(Path.of("/proc/self/status")).stream()
              .filter(line -> line.startsWith("Cpus_allowed:"))
              .findFirst()
              .orElseThrow(() -> new IOException("/proc/self/status has no Cpus_allowed"))
              .replaceAll("Cpus_allowed:|,|\\s", "");
      return new Processors(machine, new BigInteger(mask, 16));
    } catch (IOException e) {
      throw new UncheckedIOException("which processors are allowed cannot be found out", e);
    }
  }

  private byte[] toBytes() {
    byte[] text = (machine + " " + mask.toString(16)).getBytes(StandardCharsets.US_ASCII);
    return Arrays.copyOf(text, BYTES);
  }

  private static Processors fromBytes(byte[] bytes) {
    String[] words = new String(bytes, StandardCharsets.US_ASCII).strip().split("[ \0]+");
    return new Processors(words[0], new BigInteger(words[1], 16));
  }
}
