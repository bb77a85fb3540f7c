package espalier.distributed;

import espalier.bindings.Availability;
import espalier.bindings.NativeLibraries;
import espalier.device.Device;
import espalier.device.DeviceChoice;
import java.lang.foreign.MemorySegment;
import java.util.Base64;
import java.util.Map;

/**
 * Ranks that torchrun started: they find rank 0 by {@code MASTER_ADDR}, at the port behind {@code
 * MASTER_PORT}, where PyTorch's own store may be. Until they have their devices they can do no more
 * than end together.
 */
final class TorchRanks implements Ranks {

  private static final int LAST_PORT = 65535;

  private final Launch launch;
  private final Watch watch;
  private final byte[] ncclId;

  private TorchRanks(Launch launch, Watch watch, byte[] ncclId) {
    this.launch = launch;
    this.watch = watch;
    this.ncclId = ncclId;
  }

  /**
   * @throws LaunchException if there is no NCCL or no GPU
   */
  static TorchRanks join(Launch launch, Map<String, String> environment) {
    if (DeviceChoice.current().kind() == DeviceChoice.Kind.CPU) {
      throw new LaunchException(
          "torchrun started %d processes, which can find each other through NCCL only:"
                  .formatted(launch.size())
              + " --device cuda is needed; on CPUs use mpirun");
    }
    loadNccl(launch);
    String host = environment.getOrDefault("MASTER_ADDR", "");
    int port = port(environment);
    String job = environment.getOrDefault("TORCHELASTIC_RUN_ID", "job").replace(' ', '-');
    String address = "%d %s %s".formatted(port, job, host);
    String id = launch.rank() == 0 ? Base64.getEncoder().encodeToString(NcclRanks.newId()) : "";
    Watch watch = Watch.start(launch, new Watch.Meeting(port, job, id, own -> address), code -> {});
    return new TorchRanks(launch, watch, Base64.getDecoder().decode(watch.note()));
  }

  /** Where the ranks meet. */
  static int port(Map<String, String> environment) {
    int port = Launch.parse("MASTER_PORT", environment.getOrDefault("MASTER_PORT", "29500"));
    if (port < 0 || port >= LAST_PORT) {
      throw new LaunchException("MASTER_PORT is " + port + ": there is no port behind it");
    }
    return port + 1;
  }

  /** The emulator has a stand-in for NCCL in it. */
  static void loadNccl(Launch launch) {
    if (DeviceChoice.current().kind() == DeviceChoice.Kind.EMULATOR) {
      NativeLibraries.requireEmulator();
    } else if (NativeLibraries.nccl() instanceof Availability.Unavailable missing) {
      throw new LaunchException(
          "%d processes were started by %s: %s"
              .formatted(launch.size(), launch.starter(), missing.reason()));
    }
  }

  byte[] ncclId() {
    return ncclId;
  }

  @Override
  public Launch launch() {
    return launch;
  }

  @Override
  public void detach() {}

  @Override
  public Ranks on(Device device) {
    return NcclRanks.on(device, this);
  }

  @Override
  public void sum(MemorySegment values, long n) {
    throw noDevice();
  }

  @Override
  public void largest(MemorySegment values, long n) {
    throw noDevice();
  }

  @Override
  public void exchange(MemorySegment mine, MemorySegment theirs, long n, long slice) {
    throw noDevice();
  }

  @Override
  public void collect(MemorySegment whole, long n, long slice) {
    throw noDevice();
  }

  @Override
  public byte[] gather(byte[] mine) {
    throw noDevice();
  }

  @Override
  public byte[] broadcast(byte[] data) {
    throw noDevice();
  }

  private static IllegalStateException noDevice() {
    return new IllegalStateException("the ranks have no devices yet");
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
    watch.close();
  }
}
