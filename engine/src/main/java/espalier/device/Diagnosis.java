package espalier.device;

import static espalier.bindings.kernels.Kernels.esp_has_products;

import espalier.bindings.Availability;
import espalier.bindings.NativeLibraries;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * What this machine has for the engine.
 *
 * @param findings what was found, by subject
 * @param usable whether the engine can run here
 */
public record Diagnosis(Map<String, String> findings, boolean usable) {

  public static Diagnosis make() {
    Map<String, String> findings = new LinkedHashMap<>();
    findings.put("JDK", Runtime.version() + " (" + System.getProperty("java.vendor") + ")");
    findings.put(
        "machine",
        "%s %s, %d processors"
            .formatted(
                System.getProperty("os.name"),
                System.getProperty("os.arch"),
                Runtime.getRuntime().availableProcessors()));
    Availability kernels = NativeLibraries.kernels();
    findings.put("kernels", describe(kernels));
    boolean usable = kernels instanceof Availability.Available;
    if (usable) {
      try (Device device = Device.openCpu()) {
        findings.put("threads", String.valueOf(device.kernels().threads()));
      }
      findings.put(
          "bf16",
          switch (esp_has_products(ElementType.BF16.code())) {
            case 0 -> "not on this CPU: it has neither AMX nor AVX512-BF16";
            case 1 -> "by vectors";
            default -> "by AMX";
          });
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
    return new Diagnosis(findings, usable);
  }

  private static String describe(Availability library) {
    return switch (library) {
      case Availability.Available found -> found.path() + " (" + found.description() + ")";
      case Availability.Unavailable missing -> "not usable: " + missing.reason();
    };
  }
}
