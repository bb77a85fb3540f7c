package espalier.device;

import espalier.bindings.Availability;
import espalier.bindings.NativeLibraries;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.Map;

/**
 * Where tensors live and kernels run. A process uses one kind of device: see {@link DeviceChoice}.
 *
 * <p>All memory is freed when the device is closed; nothing is freed before, as a job plans its
 * memory once and then keeps it.
 */
public abstract sealed class Device implements AutoCloseable permits CpuDevice, CudaDevice {

  private final ElementType type;
  private final Kernels kernels;
  private Control control;
  private Clock clock;

  Device(ElementType type) {
    this.type = type;
    kernels = new Kernels(type);
  }

  /**
   * The machine's processor, in float32.
   *
   * @throws espalier.bindings.NativeUnavailableException if a native library cannot be loaded
   */
  public static Device openCpu() {
    return cpu(ElementType.F32);
  }

  private static Device cpu(ElementType type) {
    NativeLibraries.require();
    return new CpuDevice(type);
  }

  /**
   * The device that was chosen for this process.
   *
   * @throws espalier.bindings.NativeUnavailableException if a native library cannot be loaded
   * @throws CudaException if CUDA refuses
   */
  public static Device open() {
    DeviceChoice choice = DeviceChoice.current();
    return switch (choice.kind()) {
      case CPU -> cpu(choice.type());
      case CUDA -> {
        NativeLibraries.requireCuda();
        yield new CudaDevice(choice.ordinal(), choice.type());
      }
      case EMULATOR -> {
        NativeLibraries.requireEmulator();
        yield new CudaDevice(0, choice.type());
      }
    };
  }

  /**
   * The libraries that this process computes with, by name, and their versions. Libraries of other
   * devices are not loaded.
   */
  public static Map<String, String> libraries() {
    return switch (DeviceChoice.current().kind()) {
      case CPU -> Map.of();
      case CUDA ->
          switch (NativeLibraries.cudaRuntime()) {
            case Availability.Available found -> Map.of("cuda", found.description());
            case Availability.Unavailable missing -> throw missing.cause();
          };
      case EMULATOR -> Map.of("cuda", "emulator");
    };
  }

  /** The type of activations and of matrices of weights. */
  public final ElementType type() {
    return type;
  }

  public final Kernels kernels() {
    return kernels;
  }

  /** The same kernels for activations and weights of another type than the device's own. */
  public final Kernels kernels(ElementType other) {
    if (other == type) {
      return kernels;
    }
    Kernels others = new Kernels(other);
    others.profile(kernels.profile());
    return others;
  }

  /** Until {@link #endProfile}, every kernel call is timed, and nothing is replayed. */
  public final void beginProfile() {
    clock = clock();
    kernels.profile(new Profile(clock));
  }

  /** The calls since {@link #beginProfile}, in their order. Waits for the device. */
  public final List<Profile.Call> endProfile() {
    try {
      return kernels.profile().calls();
    } finally {
      kernels.profile(null);
      clock.close();
    }
  }

  /**
   * Whether the device has a second stream for work that may run beside other work: see {@link
   * #fork}. Elsewhere all work goes in the order in which it is queued, and {@link #fork}, {@link
   * #beside} and {@link #join} do nothing.
   */
  public boolean worksBeside() {
    return false;
  }

  /**
   * What is queued {@linkplain #beside on the second stream} from now on waits for all that was
   * queued before.
   */
  public void fork() {}

  /**
   * Says whether kernels go to a second stream from now on; the two streams do not wait for each
   * other until {@link #join}.
   */
  public void beside(boolean now) {}

  /** What is queued from now on waits for all that was queued on the second stream. */
  public void join() {}

  final boolean isProfiled() {
    return kernels.profile() != null;
  }

  abstract Clock clock();

  /** What changes from step to step; one a device. */
  public final Control control() {
    if (control == null) {
      control = new Control(this);
    }
    return control;
  }

  /** Where other libraries queue work of theirs: CUDA's stream; NULL for the host. */
  public abstract MemorySegment stream();

  /** Whether its memory is the host's. */
  public abstract boolean isHost();

  /** In one line: what it is, and what computes its products. */
  public abstract String describe();

  /**
   * Whether a linear map is faster with its low-rank terms as more columns of one product ({@code
   * ESP_EXTRA_COLUMNS}), so that it pays to lay them out for that.
   */
  public abstract boolean joinsTerms();

  /**
   * Names the purpose of memory that is allocated from now on, for the message if there is too
   * little.
   */
  public abstract void holder(String name);

  /**
   * Checks that so much memory is free, before much work whose result would not fit.
   *
   * @throws CudaOutOfMemoryException if less is free on a device that knows
   */
  public abstract void require(String what, long bytes);

  /**
   * Memory of undefined content, aligned to 64 bytes.
   *
   * @throws OutOfMemoryError naming what was asked for and what is in use
   * @throws CudaOutOfMemoryException likewise, for a GPU's memory
   */
  public abstract MemorySegment allocate(long bytes);

  /** Memory of the host, zero, from which {@link #upload} copies without waiting. */
  public abstract MemorySegment allocateStaging(long bytes);

  /**
   * Queues a copy from the host to the device. What is copied must not change before the device is
   * done: see {@link Transfer}, which waits.
   */
  public abstract void upload(MemorySegment staging, MemorySegment target);

  /** The bytes of a mapped file in memory that kernels can read; valid until the next call. */
  public abstract MemorySegment stage(MemorySegment file);

  /** Queues a copy from the device to the host, there once {@link #synchronize} returns. */
  public abstract void download(MemorySegment source, MemorySegment staging);

  /** Waits until everything queued is done. */
  public abstract void synchronize();

  /** Queues a copy within device memory, of all of {@code source}. */
  public abstract void copy(MemorySegment source, MemorySegment target);

  /**
   * @param work kernel calls, uploads and downloads, the same each time; it reads no result
   */
  public abstract Replay replay(Runnable work);

  /**
   * Makes every {@link Replay} {@linkplain Replay#forget forget} its recording, before something
   * that recordings refer to is destroyed.
   */
  public abstract void forgetReplays();

  /**
   * Whether what is queued now belongs to a {@link Replay}, which may be recording it, so that the
   * host must not wait for a result meanwhile. Also true while such work goes call by call (because
   * recording failed, or because it is measured): ranks must queue the same work either way.
   */
  public abstract boolean isReplaying();

  /**
   * Entries that a list of latents needed just now, if {@link Control#overflowData} says that it
   * was too short; else 0. Always 0 where only the device knows, as while work is recorded: see
   * {@link Control#overflow}.
   */
  public int takeOverflow() {
    MemorySegment overflow = control().overflowData();
    int needed = Transfer.ints(overflow)[0];
    if (needed > 0) {
      Transfer.clear(overflow);
    }
    return needed;
  }

  /** Seconds that the device takes for what {@code work} queues, by its own clock. */
  public abstract double seconds(Runnable work);

  /** Bytes of device memory handed out so far. */
  public abstract long allocatedBytes();

  @Override
  public abstract void close();
}
