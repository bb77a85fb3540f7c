package espalier.bindings;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class CudaFilesTest {

  @TempDir Path root;

  private Path library(String path) throws IOException {
    Path file = root.resolve(path);
    Files.createDirectories(file.getParent());
    return Files.createFile(file);
  }

  @Test
  void looksInThisOrder() throws IOException {
    Path system = library("usr/lib/x86_64-linux-gnu/libcudart.so.13");
    CudaFiles none = new CudaFiles(Map.of(), root);
    assertEquals(system, none.find("cudart"));
    Path toolkit = library("usr/local/cuda-13.0/lib64/libcudart.so.13");
    assertEquals(toolkit, none.find("cudart"));
    Path wheel = library("venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcudart.so.13");
    Map<String, String> venv = Map.of("VIRTUAL_ENV", root.resolve("venv").toString());
    assertEquals(wheel, new CudaFiles(venv, root).find("cudart"));
    Path home = library("opt/cuda/lib64/libcudart.so.13");
    Map<String, String> both =
        Map.of(
            "VIRTUAL_ENV", root.resolve("venv").toString(),
            "CUDA_HOME", root.resolve("opt/cuda").toString());
    assertEquals(home, new CudaFiles(both, root).find("cudart"));
    Path given = library("given/libcudart.so.13");
    Map<String, String> all =
        Map.of(
            "ESPALIER_CUDA_PATH", root.resolve("given").toString(),
            "CUDA_HOME", root.resolve("opt/cuda").toString());
    assertEquals(given, new CudaFiles(all, root).find("cudart"));
  }

  @Test
  void takesTheNewerVersion() throws IOException {
    library("usr/local/cuda-12.4/lib64/libcublas.so.12");
    Path newer = library("usr/lib64/libcublas.so.13");
    assertEquals(newer, new CudaFiles(Map.of(), root).find("cublas"));
    Files.delete(newer);
    assertTrue(new CudaFiles(Map.of(), root).find("cublas").endsWith("libcublas.so.12"));
  }

  @Test
  void findsTheWheelsOfCuda12() throws IOException {
    Path packages = root.resolve("me/.local/lib/python3.11/site-packages/nvidia");
    Path runtime =
        library(root.relativize(packages).resolve("cuda_runtime/lib/libcudart.so.12").toString());
    Path blas = library(root.relativize(packages).resolve("cublas/lib/libcublas.so.12").toString());
    CudaFiles files = new CudaFiles(Map.of("HOME", root.resolve("me").toString()), root);
    assertEquals(runtime, files.find("cudart"));
    assertEquals(blas, files.find("cublas"));
  }

  @Test
  void saysWhereItLooked() throws IOException {
    NativeUnavailableException nowhere =
        assertThrows(
            NativeUnavailableException.class, () -> new CudaFiles(Map.of(), root).find("cudart"));
    assertTrue(nowhere.getMessage().contains("no libcudart.so of CUDA 12 or 13"));
    library("usr/lib64/other.so");
    NativeUnavailableException somewhere =
        assertThrows(
            NativeUnavailableException.class, () -> new CudaFiles(Map.of(), root).find("cudart"));
    assertTrue(
        somewhere.getMessage().endsWith("looked in " + root.resolve("usr/lib64")),
        somewhere.getMessage());
  }
}
