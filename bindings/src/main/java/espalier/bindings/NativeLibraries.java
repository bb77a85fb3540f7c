package espalier.bindings;

import espalier.bindings.cblas.Cblas;
import espalier.bindings.kernels.Kernels;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.function.Supplier;

/**
 * The native libraries, each loaded once, when first asked for. Loading makes the functions of
 * {@link Kernels} and {@link Cblas} callable; before it, calling one is an {@link
 * UnsatisfiedLinkError}.
 */
public final class NativeLibraries {
  private NativeLibraries() {}

  /** Holders, so that asking for one library does not load the other. */
  private static final class KernelsHolder {
    static final Availability STATE = attempt(NativeLibraries::loadKernels);
  }

  private static final class OpenBlasHolder {
    static final Availability STATE = attempt(NativeLibraries::loadOpenBlas);
  }

  /** The CPU kernels, {@code libespalier_cpu.so}. */
  public static Availability kernels() {
    return KernelsHolder.STATE;
  }

  /** OpenBLAS, {@code libopenblas.so.0}. */
  public static Availability openBlas() {
    return OpenBlasHolder.STATE;
  }

  /**
   * Loads both libraries, or throws the {@link NativeUnavailableException} that says why one cannot
   * be used.
   */
  public static void require() {
    for (Availability library : new Availability[] {kernels(), openBlas()}) {
      if (library instanceof Availability.Unavailable unavailable) throw unavailable.cause();
    }
  }

  /** The address of {@code cblas_sgemm}, as {@code esp_set_sgemm} takes it. */
  public static MemorySegment sgemmAddress() {
    require();
    return Cblas.cblas_sgemm$address();
  }

  private static Availability attempt(Supplier<Availability.Available> load) {
    try {
      return load.get();
    } catch (NativeUnavailableException e) {
      return new Availability.Unavailable(e);
    }
  }

  private static Availability.Available loadKernels() {
    // OpenMP threads that wait for each other must sleep, not spin: with another busy process on
    // the
    // machine, spinning made a training step five times slower.
    ProcessEnvironment.setDefault("OMP_WAIT_POLICY", "passive");
    Path path = load(NativeFiles.kernels());
    int found = Kernels.esp_abi_version();
    if (found != Kernels.ESP_ABI_VERSION()) {
      throw new AbiMismatchException(path, Kernels.ESP_ABI_VERSION(), found);
    }
    return new Availability.Available(path, "ABI version " + found);
  }

  private static Availability.Available loadOpenBlas() {
    Path path = null;
    for (Path file : NativeFiles.openBlas()) path = load(file);
    return new Availability.Available(path, Cblas.openblas_get_config().getString(0).strip());
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
