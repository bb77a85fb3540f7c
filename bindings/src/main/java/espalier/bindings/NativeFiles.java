package espalier.bindings;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;

/**
 * Where the files of the native libraries are. The system property {@code espalier.native.path}, or
 * else the environment variable {@code ESPALIER_NATIVE_PATH}, names a folder that holds {@code
 * libespalier_cpu.so} and may hold {@code libopenblas.so.0}; what neither names is a resource on
 * the class path.
 */
final class NativeFiles {
  private NativeFiles() {}

  private static final String PLATFORM = "linux-x86_64";
  private static final String KERNELS = "libespalier_cpu.so";
  private static final String OPENBLAS = "libopenblas.so.0";

  static Path kernels() {
    Path folder = chosenFolder();
    if (folder == null) return resource("META-INF/espalier/" + PLATFORM + "/" + KERNELS);
    Path file = folder.resolve(KERNELS);
    if (!Files.isRegularFile(file)) {
      throw new NativeUnavailableException(
          file + ": no such file, but espalier.native.path names its folder");
    }
    return file;
  }

  /** OpenBLAS last, what it depends on before it. */
  static List<Path> openBlas() {
    Path folder = chosenFolder();
    if (folder != null && Files.isRegularFile(folder.resolve(OPENBLAS))) {
      return List.of(folder.resolve(OPENBLAS));
    }
    return Stream.of("libquadmath.so.0", "libgfortran.so.5", OPENBLAS)
        .map(name -> resource("org/bytedeco/openblas/" + PLATFORM + "/" + name))
        .toList();
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
