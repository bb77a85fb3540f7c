package espalier.bindings;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/**
 * Which library is taken, and what is said of one that does not serve. A library is loaded once, so
 * each in its own JVM.
 */
class LibraryChoiceTest {

  /** What the child runs. */
  static final class Child {
    public static void main(String[] args) {
      switch (NativeLibraries.kernels()) {
        case Availability.Available ok -> System.out.println("at " + ok.path());
        case Availability.Unavailable no ->
            System.out.println(no.cause().getClass().getSimpleName() + ": " + no.reason());
      }
    }
  }

  @TempDir Path folder;

  @Test
  void ownLibraryByDefault() throws Exception {
    String said = child(Map.of());
    assertTrue(said.matches("at /.*/libespalier_cpu\\.so"), said);
  }

  @Test
  void propertyBeforeEnvironment() throws Exception {
    library(
        "int esp_abi_version(void) { return %d; } int esp_library_backend(void) { return 0; }"
            .formatted(currentVersion()));
    Path other = Files.createDirectory(folder.resolve("empty"));
    String expected = "at " + folder.resolve("libespalier_cpu.so");
    assertEquals(expected, child(Map.of("ESPALIER_NATIVE_PATH", folder.toString())));
    assertEquals(
        expected,
        child(
            Map.of("ESPALIER_NATIVE_PATH", other.toString()), "-Despalier.native.path=" + folder));
  }

  @Test
  void missingLibraryIsNamed() throws Exception {
    assertEquals(
        "NativeUnavailableException: %s: no such file, but espalier.native.path names its folder"
            .formatted(folder.resolve("libespalier_cpu.so")),
        child(Map.of(), "-Despalier.native.path=" + folder));
  }

  @Test
  void linkersComplaintIsKept() throws Exception {
    Files.writeString(folder.resolve("libespalier_cpu.so"), "not a library");
    String said = child(Map.of(), "-Despalier.native.path=" + folder);
    String lastLine =
        said.substring(said.lastIndexOf('\n') + 1); // the JVM warns of such a file first
    assertEquals(
        "NativeUnavailableException: cannot load %s: file too short"
            .formatted(folder.resolve("libespalier_cpu.so")),
        lastLine);
  }

  @Test
  void kernelsOfAnotherDeviceAreRefused() throws Exception {
    library(
        "int esp_abi_version(void) { return %d; } int esp_library_backend(void) { return 1; }"
            .formatted(currentVersion()));
    assertEquals(
        "NativeUnavailableException: %s: this process has loaded the kernels of another device before"
            .formatted(folder.resolve("libespalier_cpu.so")),
        child(Map.of(), "-Despalier.native.path=" + folder));
  }

  @Test
  void otherVersionIsRefusedWithBothNumbers() throws Exception {
    library("int esp_abi_version(void) { return 9999; }");
    String said = child(Map.of(), "-Despalier.native.path=" + folder);
    assertEquals(
        "AbiMismatchException: %s has ABI version 9999, the bindings need %d: build both from the same sources"
            .formatted(folder.resolve("libespalier_cpu.so"), currentVersion()),
        said);
  }

  private static int currentVersion() {
    return espalier.bindings.kernels.Kernels.ESP_ABI_VERSION();
  }

  private void library(String source) throws Exception {
    Path c = Files.writeString(folder.resolve("library.c"), source);
    run(
        new ProcessBuilder(
            "g++",
            "-x",
            "c",
            "-shared",
            "-fPIC",
            "-o",
            folder.resolve("libespalier_cpu.so").toString(),
            c.toString()));
  }

  private static String child(Map<String, String> environment, String... options) throws Exception {
    List<String> command = new ArrayList<>();
    command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
    command.add("--enable-native-access=ALL-UNNAMED");
    command.addAll(List.of(options));
    command.addAll(List.of("-cp", System.getProperty("java.class.path"), Child.class.getName()));
    ProcessBuilder builder = new ProcessBuilder(command);
    builder.environment().remove("ESPALIER_NATIVE_PATH");
    builder.environment().putAll(environment);
    return run(builder);
  }

  private static String run(ProcessBuilder builder) throws Exception {
    Process process = builder.redirectErrorStream(true).start();
    String output = new String(process.getInputStream().readAllBytes()).strip();
    assertEquals(0, process.waitFor(), output);
    return output;
  }
}
