package espalier.bindings;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class MpiFilesTest {

  @TempDir Path root;

  private Path find(Map<String, String> environment) {
    return new MpiFiles(environment, root.resolve("cache"))
        .find(List.of("mpicc.some", "mpicc"), "libsome-dev");
  }

  /** A compiler that writes what it was called with, as {@code exit} says. */
  private Map<String, String> compiler(String script) throws IOException {
    Path file = root.resolve("mpicc");
    Files.writeString(file, "#!/bin/sh\n" + script + "\n");
    assertTrue(file.toFile().setExecutable(true));
    return Map.of("PATH", "/nowhere:" + root);
  }

  @Test
  void namesWhatToInstall() {
    String message =
        assertThrows(NativeUnavailableException.class, () -> find(Map.of("PATH", "/nowhere")))
            .getMessage();
    assertTrue(message.contains("mpicc.some or mpicc"), message);
    assertTrue(message.contains("libsome-dev"), message);
  }

  @Test
  void takesTheLibraryThatIsNamed() throws IOException {
    Path library = Files.createFile(root.resolve("own.so"));
    assertEquals(library, find(Map.of("ESPALIER_MPI_PATH", library.toString())));
    Map<String, String> absent = Map.of("ESPALIER_MPI_PATH", root.resolve("none.so").toString());
    assertThrows(NativeUnavailableException.class, () -> find(absent));
  }

  @Test
  void compilesOnceForEachCompiler() throws IOException {
    Map<String, String> environment = compiler("echo called >>" + root + "/calls; echo >$8");
    Path library = find(environment);
    assertTrue(Files.isRegularFile(library));
    assertEquals(library, find(environment));
    assertEquals(List.of("called"), Files.readAllLines(root.resolve("calls")));
    compiler("echo called again >>" + root + "/calls; echo >$8");
    assertTrue(!library.equals(find(environment)), "another compiler");
    assertEquals(2, Files.readAllLines(root.resolve("calls")).size());
  }

  @Test
  void saysWhatTheCompilerSays() throws IOException {
    Map<String, String> environment = compiler("echo mpi.h is absent; exit 1");
    String message =
        assertThrows(NativeUnavailableException.class, () -> find(environment)).getMessage();
    assertTrue(message.contains("mpi.h is absent"), message);
    try (var left = Files.walk(root.resolve("cache")).filter(Files::isRegularFile)) {
      assertEquals(0, left.count(), "files left behind");
    }
  }
}
