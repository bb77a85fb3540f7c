package espalier.bindings;

import espalier.bindings.cublas.Cublas;
import espalier.bindings.cudart.CudaRuntime;
import espalier.bindings.kernels.Kernels;
import espalier.bindings.mpi.Mpi;
import espalier.bindings.nccl.Nccl;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Supplier;

/**
 * The native libraries, each loaded once, when first asked for. Loading makes the functions of
 * {@link Kernels} callable; before it, calling one is an {@link UnsatisfiedLinkError}.
 */
public final class NativeLibraries {
  private NativeLibraries() {}

  /** Holders, so that asking for one library does not load the other. */
  private static final class KernelsHolder {
    static final Availability STATE = attempt(NativeLibraries::loadKernels);
  }

  private static final class CudaHolder {
    static final Availability STATE =
        attempt(() -> loadKernels(NativeFiles.cudaKernels(), Kernels.ESP_CUDA()));
  }

  private static final class EmulatorHolder {
    static final Availability STATE =
        attempt(
            () -> {
              load(NativeFiles.emulator("libcudart_emulator.so"));
              Path kernels = NativeFiles.emulator("libespalier_emulator.so");
              return loadKernels(kernels, Kernels.ESP_CUDA());
            });
  }

  private static final class CudaRuntimeHolder {
    static final Availability STATE = attempt(NativeLibraries::loadCudaRuntime);
  }

  private static final class CublasHolder {
    static final Availability STATE = attempt(NativeLibraries::loadCublas);
  }

  private static final class NcclHolder {
    static final Availability STATE = attempt(NativeLibraries::loadNccl);
  }

  /** NCCL, which needs CUDA's runtime; makes {@link Nccl} callable. */
  public static Availability nccl() {
    return NcclHolder.STATE;
  }

  /**
   * Loads the library that makes {@link Mpi} callable, compiling it first where it has to be.
   *
   * @param compilers of the MPI that started the process, the preferred one first
   * @param debianPackage that has the compiler
   * @throws NativeUnavailableException that names what to install
   */
  public static Path loadMpi(List<String> compilers, String debianPackage) {
    // UCX, which may carry MPI's messages, must leave SIGSEGV to the Java machine: it is how that
    // finds null pointers.
    ProcessEnvironment.setDefault("UCX_ERROR_SIGNALS", "");
    // Nor read the memory of another rank, as it does for large messages: it ends the process by
    // itself where that rank has just been killed. (Without the transport for that, cma, such
    // messages leave work that MPICH 4.0's MPI_Finalize waits for forever.)
    ProcessEnvironment.setDefault("UCX_RNDV_THRESH", "inf");
    Path cache = ResourceFile.cacheFolder().resolveSibling("mpi");
    return load(new MpiFiles(System.getenv(), cache).find(compilers, debianPackage));
  }

  /**
   * How many threads kernels use, unless {@code OMP_NUM_THREADS} says it. To be called before the
   * kernels are loaded.
   */
  public static void limitThreads(int threads) {
    ProcessEnvironment.setDefault("OMP_NUM_THREADS", String.valueOf(threads));
  }

  /** CUDA's runtime, {@code libcudart.so}; makes {@link CudaRuntime} callable. */
  public static Availability cudaRuntime() {
    return CudaRuntimeHolder.STATE;
  }

  /** cuBLAS; makes {@link Cublas} callable. */
  public static Availability cublas() {
    return CublasHolder.STATE;
  }

  /**
   * Makes {@link Kernels}, {@link CudaRuntime} and {@link Cublas} those of CUDA, or throws the
   * {@link NativeUnavailableException} that says why they cannot be used. The functions of both
   * kernel libraries have the same names: a process that has loaded one cannot have the other.
   */
  public static void requireCuda() {
    for (Availability library : new Availability[] {cudaRuntime(), cublas(), CudaHolder.STATE}) {
      if (library instanceof Availability.Unavailable unavailable) throw unavailable.cause();
    }
  }

  /** The same with the emulator in CUDA's place. */
  public static void requireEmulator() {
    if (EmulatorHolder.STATE instanceof Availability.Unavailable unavailable) {
      throw unavailable.cause();
    }
  }

  /** Where the kernels for GPUs are, or why there are none; nothing is loaded. */
  public static String cudaKernels() {
    try {
      return NativeFiles.cudaKernels().toString();
    } catch (NativeUnavailableException e) {
      return "not usable: " + e.getMessage();
    }
  }

  /** The CPU kernels, {@code libespalier_cpu.so}. */
  public static Availability kernels() {
    return KernelsHolder.STATE;
  }

  /**
   * Loads the CPU kernels, or throws the {@link NativeUnavailableException} that says why they
   * cannot be used.
   */
  public static void require() {
    if (kernels() instanceof Availability.Unavailable unavailable) throw unavailable.cause();
  }

  private static Availability attempt(Supplier<Availability.Available> load) {
    try {
      return load.get();
    } catch (NativeUnavailableException e) {
      return new Availability.Unavailable(e);
    }
  }

  private static Availability.Available loadKernels() {
    // Java counts the processors that a container leaves, which the C library does not.
    limitThreads(Runtime.getRuntime().availableProcessors());
    return loadKernels(NativeFiles.kernels(), Kernels.ESP_CPU());
  }

  private static synchronized Availability.Available loadKernels(Path file, int backend) {
    Path path = load(file);
    int found = Kernels.esp_abi_version();
    if (found != Kernels.ESP_ABI_VERSION()) {
      throw new AbiMismatchException(path, Kernels.ESP_ABI_VERSION(), found);
    }
    if (Kernels.esp_library_backend() != backend) {
      throw new NativeUnavailableException(
          path + ": this process has loaded the kernels of another device before");
    }
    return new Availability.Available(path, "ABI version " + found);
  }

  private static CudaFiles cudaFiles() {
    return new CudaFiles(System.getenv(), Path.of("/"));
  }

  private static Availability.Available loadCudaRuntime() {
    Path path = load(cudaFiles().find("cudart"));
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment version = arena.allocate(ValueLayout.JAVA_INT);
      CudaRuntime.cudaRuntimeGetVersion(version);
      return new Availability.Available(path, cudaVersion(version.get(ValueLayout.JAVA_INT, 0)));
    }
  }

  private static Availability.Available loadCublas() {
    if (cudaRuntime() instanceof Availability.Unavailable unavailable) {
      throw unavailable.cause();
    }
    // cuBLAS needs its second library, which the linker does not look for beside it.
    load(cudaFiles().find("cublasLt"));
    return new Availability.Available(load(cudaFiles().find("cublas")), "found");
  }

  private static Availability.Available loadNccl() {
    if (cudaRuntime() instanceof Availability.Unavailable unavailable) {
      throw unavailable.cause();
    }
    Path path = load(cudaFiles().findNccl());
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment version = arena.allocate(ValueLayout.JAVA_INT);
      Nccl.ncclGetVersion(version);
      return new Availability.Available(path, ncclVersion(version.get(ValueLayout.JAVA_INT, 0)));
    }
  }

  /** NCCL counts 10000 a version and 100 a minor one. */
  private static String ncclVersion(int version) {
    return "NCCL %d.%d.%d".formatted(version / 10000, version % 10000 / 100, version % 100);
  }

  /** CUDA counts 1000 a version and 10 a minor one. */
  private static String cudaVersion(int version) {
    return "CUDA %d.%d".formatted(version / 1000, version % 1000 / 10);
  }

  /**
   * By {@link System#load}: unlike {@code SymbolLookup.libraryLookup} it keeps the dynamic linker's
   * complaint.
   */
  private static Path load(Path file) {
    try {
      System.load(file.toString());
    } catch (UnsatisfiedLinkError e) {
      String complaint = e.getMessage().replace(file + ": ", "");
      throw new NativeUnavailableException("cannot load %s: %s".formatted(file, complaint), e);
    }
    return file;
  }
}
