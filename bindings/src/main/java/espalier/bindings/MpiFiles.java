package espalier.bindings;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32;

/**
 * {@code libespalier_mpi.so} for the MPI that started the job. MPI has an API and no ABI, and a
 * cluster has MPIs that nobody knew when Espalier was built: so the library is compiled on its
 * first use, which takes a moment, by the MPI's own compiler, and kept in the cache.
 *
 * <p>{@code ESPALIER_MPI_PATH} names a library that was compiled before, for nodes without a
 * compiler: {@code mpicc -O2 -shared -fPIC native/mpi/espalier_mpi.c -o libespalier_mpi.so}.
 */
final class MpiFiles {

  private static final String LIBRARY = "libespalier_mpi.so";
  private static final List<String> SOURCES = List.of("espalier_mpi.h", "espalier_mpi.c");
  private static final int PATIENCE_SECONDS = 60;

  private final Map<String, String> environment;
  private final Path cache;

  MpiFiles(Map<String, String> environment, Path cache) {
    this.environment = environment;
    this.cache = cache;
  }

  /**
   * @param compilers names of the compiler to be used, the preferred one first
   * @param debianPackage that has it
   * @throws NativeUnavailableException that names what to install
   */
  Path find(List<String> compilers, String debianPackage) {
    String given = environment.getOrDefault("ESPALIER_MPI_PATH", "");
    if (!given.isEmpty()) {
      if (!Files.isRegularFile(Path.of(given))) {
        throw new NativeUnavailableException(given + ": no such file, but ESPALIER_MPI_PATH is it");
      }
      return Path.of(given).toAbsolutePath();
    }
    Path compiler =
        compilers.stream()
            .map(this::onPath)
            .flatMap(Optional::stream)
            .findFirst()
            .orElseThrow(
                () ->
                    new NativeUnavailableException(
                        "no %s on the PATH: install MPI's compiler (Debian package %s)"
                            .formatted(String.join(" or ", compilers), debianPackage)));
    try {
      return compiled(compiler);
    } catch (IOException e) {
      throw new NativeUnavailableException(
          "cannot compile the MPI library: " + e + " (XDG_CACHE_HOME names the cache)", e);
    }
  }

  private Optional<Path> onPath(String program) {
    for (String folder : environment.getOrDefault("PATH", "").split(":")) {
      Path file = Path.of(folder, program);
      if (!folder.isEmpty() && Files.isExecutable(file)) {
        return Optional.of(file);
      }
    }
    return Optional.empty();
  }

  /** All ranks may compile at once: each writes a folder of its own, and the renames are atomic. */
  private Path compiled(Path compiler) throws IOException {
    Path folder = cache.resolve("%08x".formatted(key(compiler)));
    Path library = folder.resolve(LIBRARY);
    if (Files.isRegularFile(library)) {
      return library;
    }
    Files.createDirectories(folder);
    Path work = Files.createTempDirectory(folder, "build");
    try {
      for (String source : SOURCES) {
        try (InputStream in = source(source)) {
          Files.copy(in, work.resolve(source));
        }
      }
      compile(compiler, work);
      Files.move(work.resolve(LIBRARY), library, StandardCopyOption.ATOMIC_MOVE);
    } finally {
      for (String file : List.of(SOURCES.get(0), SOURCES.get(1), LIBRARY, "log")) {
        Files.deleteIfExists(work.resolve(file));
      }
      Files.delete(work);
    }
    return library;
  }

  private void compile(Path compiler, Path work) throws IOException {
    List<String> command = new ArrayList<>(List.of(compiler.toString(), "-O2", "-std=c11"));
    command.addAll(List.of("-shared", "-fPIC", "-fvisibility=hidden", SOURCES.get(1)));
    command.addAll(List.of("-o", LIBRARY));
    Path log = work.resolve("log");
    Process process =
        new ProcessBuilder(command)
            .directory(work.toFile())
            .redirectErrorStream(true)
            .redirectOutput(log.toFile())
            .start();
    try {
      if (!process.waitFor(PATIENCE_SECONDS, TimeUnit.SECONDS)) {
        process.destroyForcibly();
        throw new IOException(compiler + " does not come to an end");
      }
    } catch (InterruptedException e) {
      process.destroyForcibly();
      Thread.currentThread().interrupt();
      throw new IOException("interrupted", e);
    }
    if (process.exitValue() != 0) {
      throw new IOException(compiler + ": " + Files.readString(log).strip());
    }
  }

  /** Differs where the sources or the compiler do. */
  private static long key(Path compiler) throws IOException {
    CRC32 crc = new CRC32();
    for (String source : SOURCES) {
      try (InputStream in = source(source)) {
        crc.update(in.readAllBytes());
      }
    }
    Path file = compiler.toRealPath();
    String version = file + " " + Files.getLastModifiedTime(file) + " " + Files.size(file);
    crc.update(version.getBytes(StandardCharsets.UTF_8));
    return crc.getValue();
  }

  private static InputStream source(String name) {
    InputStream in = MpiFiles.class.getResourceAsStream("/META-INF/espalier/mpi/" + name);
    if (in == null) {
      throw new NativeUnavailableException("not on the class path: " + name);
    }
    return in;
  }
}
