package espalier.device;

import espalier.bindings.Availability;
import espalier.bindings.NativeLibraries;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * What this machine has for the engine.
 *
 * @param findings what was found, by subject
 * @param warnings what costs speed or will not work
 * @param usable whether the engine can run here
 */
public record Diagnosis(Map<String, String> findings, List<String> warnings, boolean usable) {

  public static Diagnosis make() {
    Map<String, String> findings = new LinkedHashMap<>();
    List<String> warnings = new ArrayList<>();
    findings.put("JDK", Runtime.version() + " (" + System.getProperty("java.vendor") + ")");
    findings.put(
        "machine",
        "%s %s, %d processors"
            .formatted(
                System.getProperty("os.name"),
                System.getProperty("os.arch"),
                Runtime.getRuntime().availableProcessors()));
    Availability kernels = NativeLibraries.kernels();
    Availability openBlas = NativeLibraries.openBlas();
    findings.put("kernels", describe(kernels));
    findings.put("OpenBLAS", describe(openBlas));
    boolean usable =
        kernels instanceof Availability.Available && openBlas instanceof Availability.Available;
    if (usable) {
      try (Device device = Device.openCpu()) {
        findings.put("products", Device.openBlas());
        findings.put("threads", String.valueOf(device.kernels().threads()));
      }
    }
    findings.put("GPU", NvidiaDriver.describe(Path.of("/proc/driver/nvidia")));
    findings.put("CUDA", describe(NativeLibraries.cudaRuntime()));
    findings.put("cuBLAS", describe(NativeLibraries.cublas()));
    findings.put("CUDA kernels", NativeLibraries.cudaKernels());
    CudaProbe.Result probe = CudaProbe.thorough();
    findings.put(
        "runs on",
        probe.gpus() == 0
            ? "the CPU: " + probe.reason()
            : "the GPU if there are CUDA kernels, else the CPU (--device chooses)");
    String coreType = System.getenv("OPENBLAS_CORETYPE");
    if (coreType != null) {
      warnings.add(
          "OPENBLAS_CORETYPE=%s makes OpenBLAS use the kernels of that processor; unset, it chooses"
                  .formatted(coreType)
              + " the fastest for this one");
    }
    return new Diagnosis(findings, warnings, usable);
  }

  private static String describe(Availability library) {
    return switch (library) {
      case Availability.Available found -> found.path() + " (" + found.description() + ")";
      case Availability.Unavailable missing -> "not usable: " + missing.reason();
    };
  }
}
