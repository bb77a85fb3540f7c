package espalier.bindings;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.stream.Stream;

/**
 * Where CUDA's libraries are: in {@code ESPALIER_CUDA_PATH}, the folders of {@code
 * LD_LIBRARY_PATH}, a toolkit, the packages of pip or conda, or the system's library folders, in
 * this order. CUDA 13 goes before 12.
 */
final class CudaFiles {

  private static final List<Integer> VERSIONS = List.of(13, 12);

  private final Map<String, String> environment;
  private final Path root;

  /**
   * @param root of the file system
   */
  CudaFiles(Map<String, String> environment, Path root) {
    this.environment = environment;
    this.root = root;
  }

  /**
   * @param library without prefix and suffix, such as {@code cudart}
   * @throws NativeUnavailableException that says where it was looked for
   */
  Path find(String library) {
    for (int version : VERSIONS) {
      Optional<Path> found = first("lib%s.so.%d".formatted(library, version));
      if (found.isPresent()) {
        return found.get();
      }
    }
    throw new NativeUnavailableException(
        "no lib%s.so of CUDA 12 or 13; looked in %s".formatted(library, looked()));
  }

  /**
   * @throws NativeUnavailableException that names what to install
   */
  Path findNccl() {
    return first("libnccl.so.2")
        .orElseThrow(
            () ->
                new NativeUnavailableException(
                    "no libnccl.so.2: install NCCL (pip package nvidia-nccl-cu13); looked in "
                        + looked()));
  }

  private Optional<Path> first(String name) {
    return folders().stream()
        .map(folder -> folder.resolve(name))
        .filter(Files::isRegularFile)
        .findFirst();
  }

  private String looked() {
    List<Path> folders = folders();
    return folders.isEmpty()
        ? "no folder that exists"
        : String.join(", ", folders.stream().map(Path::toString).toList());
  }

  /** Those that exist. */
  private List<Path> folders() {
    List<Path> folders = new ArrayList<>();
    add(folders, environment.get("ESPALIER_CUDA_PATH"), "");
    for (String folder : environment.getOrDefault("LD_LIBRARY_PATH", "").split(":")) {
      add(folders, folder, "");
    }
    for (String variable : List.of("CUDA_HOME", "CUDA_PATH")) {
      add(folders, environment.get(variable), "lib64");
      add(folders, environment.get(variable), "lib");
    }
    for (String prefix : List.of("VIRTUAL_ENV", "CONDA_PREFIX")) {
      wheels(folders, environment.get(prefix));
      add(folders, environment.get(prefix), "lib");
    }
    wheels(folders, environment.getOrDefault("HOME", "") + "/.local");
    matching(root.resolve("usr/local"), "cuda*")
        .forEach(cuda -> add(folders, cuda.toString(), "lib64"));
    matching(root.resolve("usr/local"), "cuda*")
        .forEach(cuda -> add(folders, cuda.toString(), "lib"));
    add(folders, root.toString(), "usr/lib/x86_64-linux-gnu");
    add(folders, root.toString(), "usr/lib64");
    return folders.stream().distinct().toList();
  }

  /**
   * The packages nvidia-cuda-runtime and nvidia-cublas, for CUDA 13 in one folder, for 12 in two,
   * and nvidia-nccl.
   */
  private static void wheels(List<Path> folders, String prefix) {
    if (prefix == null || prefix.isEmpty()) {
      return;
    }
    for (Path python : matching(Path.of(prefix, "lib"), "python3*")) {
      for (String part : List.of("cu13", "cuda_runtime", "cublas", "nccl")) {
        add(folders, python.toString(), "site-packages/nvidia/" + part + "/lib");
      }
    }
  }

  private static List<Path> matching(Path parent, String glob) {
    if (!Files.isDirectory(parent)) {
      return List.of();
    }
    try (Stream<Path> children = Files.list(parent)) {
      return children
          .filter(
              child ->
                  parent
                      .getFileSystem()
                      .getPathMatcher("glob:" + glob)
                      .matches(child.getFileName()))
          .sorted()
          .toList();
    } catch (IOException e) {
      return List.of();
    }
  }

  private static void add(List<Path> folders, String folder, String below) {
    if (folder != null && !folder.isEmpty() && Files.isDirectory(Path.of(folder, below))) {
      folders.add(Path.of(folder, below));
    }
  }
}
