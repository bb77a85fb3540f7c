package espalier.distributed;

import espalier.bindings.NativeLibraries;
import espalier.bindings.NativeUnavailableException;
import espalier.bindings.mpi.Mpi;
import espalier.device.Device;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import java.util.function.Consumer;

/** Ranks that MPI started and connects; their arrays are in host memory. */
final class MpiRanks implements Ranks {

  private final Launch launch;
  private final Watch watch;

  private MpiRanks(Launch launch, Watch watch) {
    this.launch = launch;
    this.watch = watch;
  }

  /**
   * @throws LaunchException if MPI is missing here or is not the one that started this process
   */
  static MpiRanks join(Launch launch) {
    load(launch);
    int rank;
    int size;
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment two = arena.allocate(ValueLayout.JAVA_INT, 2);
      check("MPI_Init", Mpi.esp_mpi_init(two, two.asSlice(Integer.BYTES)));
      rank = two.getAtIndex(ValueLayout.JAVA_INT, 0);
      size = two.getAtIndex(ValueLayout.JAVA_INT, 1);
    }
    if (rank != launch.rank() || size != launch.size()) {
      throw new LaunchException(
          ("%s says that this is rank %d of %d, but its library says %d of %d: %s was compiled for"
                  + " another MPI; put the compiler of the one that starts the job on the PATH")
              .formatted(launch.starter(), launch.rank(), launch.size(), rank, size, version()));
    }
    Watch watch =
        Watch.start(
            launch,
            Watch.Meeting.anywhere(address -> new String(broadcast(launch, address.getBytes()))),
            Mpi::esp_mpi_abort);
    return new MpiRanks(launch, watch);
  }

  private static void load(Launch launch) {
    try {
      switch (launch.starter()) {
        case OPEN_MPI ->
            NativeLibraries.loadMpi(List.of("mpicc.openmpi", "mpicc"), "libopenmpi-dev");
        case MPICH -> NativeLibraries.loadMpi(List.of("mpicc.mpich", "mpicc"), "libmpich-dev");
        case SLURM ->
            NativeLibraries.loadMpi(
                List.of("mpicc", "mpicc.openmpi", "mpicc.mpich"), "libopenmpi-dev");
        case NONE, TORCHRUN -> throw new IllegalArgumentException(launch.toString());
      }
    } catch (NativeUnavailableException e) {
      throw new LaunchException(
          "%d processes were started by %s: %s"
              .formatted(launch.size(), launch.starter(), e.getMessage()),
          e);
    }
  }

  /** MPI's first line on itself. */
  private static String version() {
    return Mpi.esp_mpi_version().getString(0).lines().findFirst().orElse("").strip();
  }

  @Override
  public Launch launch() {
    return launch;
  }

  @Override
  public void detach() {}

  @Override
  public Ranks on(Device device) {
    return device.isHost() ? this : NcclRanks.on(device, this);
  }

  @Override
  public void sum(MemorySegment values, long n) {
    watch.waitFor(() -> check("sum", Mpi.esp_mpi_sum(values, n)));
  }

  @Override
  public void largest(MemorySegment values, long n) {
    watch.waitFor(() -> check("largest", Mpi.esp_mpi_largest(values, n)));
  }

  @Override
  public void exchange(MemorySegment mine, MemorySegment theirs, long n, long slice) {
    watch.waitFor(() -> check("exchange", Mpi.esp_mpi_exchange(mine, theirs, n, slice)));
  }

  @Override
  public void collect(MemorySegment whole, long n, long slice) {
    watch.waitFor(() -> check("collect", Mpi.esp_mpi_collect(whole, n, slice)));
  }

  @Override
  public byte[] gather(byte[] mine) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment own = arena.allocateFrom(ValueLayout.JAVA_BYTE, mine);
      MemorySegment all = arena.allocate((long) mine.length * size());
      watch.waitFor(() -> check("gather", Mpi.esp_mpi_gather(own, all, mine.length)));
      return all.toArray(ValueLayout.JAVA_BYTE);
    }
  }

  @Override
  public byte[] broadcast(byte[] data) {
    return broadcast(launch, data);
  }

  /** The length first, as only rank 0 knows it. */
  private static byte[] broadcast(Launch launch, byte[] data) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment length = arena.allocateFrom(ValueLayout.JAVA_INT, data.length);
      check("broadcast", Mpi.esp_mpi_broadcast(length, Integer.BYTES));
      MemorySegment bytes = arena.allocate(length.get(ValueLayout.JAVA_INT, 0));
      if (launch.rank() == 0) {
        MemorySegment.copy(data, 0, bytes, ValueLayout.JAVA_BYTE, 0, data.length);
      }
      check("broadcast", Mpi.esp_mpi_broadcast(bytes, bytes.byteSize()));
      return bytes.toArray(ValueLayout.JAVA_BYTE);
    }
  }

  /** MPI's shared windows are files there, of which nobody checks whether they fit. */
  private static final Path SHARED = Path.of("/dev/shm");

  @Override
  public Optional<NodeMemory> share(long bytes, Consumer<String> warn) {
    double[] all = gather(launch.localSize(), usable());
    boolean several = false;
    double least = Double.MAX_VALUE;
    for (int r = 0; r < size(); r++) {
      several |= all[2 * r] > 1;
      least = Math.min(least, all[2 * r + 1]);
    }
    if (several && least < bytes) {
      warn.accept(
          "%s has room for %.2f GiB, %.2f are needed for ranks to share: each has its own copy"
              .formatted(SHARED, least / (1L << 30), bytes / (double) (1L << 30)));
    }
    return several && least >= bytes ? Optional.of(share(bytes)) : Optional.empty();
  }

  private static double usable() {
    try {
      return Files.getFileStore(SHARED).getUsableSpace();
    } catch (IOException e) {
      return 0;
    }
  }

  private static NodeMemory share(long bytes) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment memory = arena.allocate(ValueLayout.ADDRESS);
      MemorySegment writer = arena.allocate(ValueLayout.JAVA_INT);
      check("shared memory", Mpi.esp_mpi_share(bytes, memory, writer));
      return new NodeMemory(
          memory.get(ValueLayout.ADDRESS, 0).reinterpret(bytes),
          writer.get(ValueLayout.JAVA_INT, 0) != 0,
          () -> check("shared memory", Mpi.esp_mpi_settle()));
    }
  }

  @Override
  public void work(Runnable piece) {
    watch.work(piece);
  }

  @Override
  public void checkpoint(String file) {
    watch.checkpoint(file);
  }

  @Override
  public void fail(String message, int exitCode) {
    watch.fail(message, exitCode);
  }

  @Override
  public void close() {
    check("barrier", Mpi.esp_mpi_barrier());
    watch.close();
    check("MPI_Finalize", Mpi.esp_mpi_finalize());
  }

  private static void check(String what, int code) {
    if (code != 0) {
      throw new LaunchException("MPI: " + what + ": " + Mpi.esp_mpi_error().getString(0));
    }
  }
}
