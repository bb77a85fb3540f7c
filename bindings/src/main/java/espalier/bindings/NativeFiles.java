package espalier.bindings;

import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Where the files of the native libraries are. The system property {@code espalier.native.path}, or
 * else the environment variable {@code ESPALIER_NATIVE_PATH}, names a folder that holds {@code
 * libespalier_cpu.so}; where neither names one, it is a resource on the class path.
 */
final class NativeFiles {
  private NativeFiles() {}

  private static final String PLATFORM = "linux-x86_64";
  private static final String KERNELS = "libespalier_cpu.so";
  private static final String CUDA_KERNELS = "libespalier_cuda.so";

  static Path kernels() {
    Path folder = chosenFolder();
    return folder == null ? ownResource(KERNELS) : inside(folder, KERNELS);
  }

  /** The kernels for NVIDIA GPUs: in the chosen folder, or where a build with nvcc left them. */
  static Path cudaKernels() {
    Path folder = chosenFolder();
    if (folder != null) return inside(folder, CUDA_KERNELS);
    try {
      return ownResource(CUDA_KERNELS);
    } catch (NativeUnavailableException e) {
      throw new NativeUnavailableException(
          "this build has no CUDA kernels: it was made without nvcc (native/build.sh needs it on the"
              + " PATH)",
          e);
    }
  }

  /** One of the libraries of the emulator, which nothing but tests use. */
  static Path emulator(String name) {
    Path folder = chosenFolder();
    if (folder == null) {
      throw new NativeUnavailableException(
          "the emulator is where espalier.native.path says, and it says nothing");
    }
    return inside(folder, name);
  }

  private static Path ownResource(String name) {
    return resource("META-INF/espalier/" + PLATFORM + "/" + name);
  }

  private static Path inside(Path folder, String name) {
    Path file = folder.resolve(name);
    if (!Files.isRegularFile(file)) {
      throw new NativeUnavailableException(
          file + ": no such file, but espalier.native.path names its folder");
    }
    return file;
  }

  private static Path chosenFolder() {
    String path = System.getProperty("espalier.native.path", System.getenv("ESPALIER_NATIVE_PATH"));
    return path == null || path.isEmpty() ? null : Path.of(path).toAbsolutePath();
  }

  private static Path resource(String name) {
    String platform =
        System.getProperty("os.name").toLowerCase() + "-" + System.getProperty("os.arch");
    if (!platform.equals("linux-amd64")) {
      throw new NativeUnavailableException(
          "no native libraries for " + platform + ", only for linux-amd64");
    }
    return ResourceFile.of(name);
  }
}
