package espalier.format;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class AtomicFolderTest {

  @TempDir Path temp;

  @Test
  void appearsWhole() throws IOException {
    Path folder = temp.resolve("deep/folder");
    AtomicFolder.write(
        folder,
        beside -> {
          Files.writeString(beside.resolve("a"), "1");
          Files.createDirectory(beside.resolve("sub"));
          assertFalse(Files.exists(folder));
        });
    assertEquals("1", Files.readString(folder.resolve("a")));
    assertEquals(List.of("folder"), names(folder.getParent()));
  }

  @Test
  void takesThePlaceOfAnEmptyFolder() throws IOException {
    Path folder = Files.createDirectory(temp.resolve("folder"));
    assertTrue(AtomicFolder.isFree(folder));
    AtomicFolder.write(folder, beside -> Files.writeString(beside.resolve("a"), "1"));
    assertEquals(List.of("a"), names(folder));
    assertFalse(AtomicFolder.isFree(folder));
    assertFalse(AtomicFolder.isFree(folder.resolve("a")));
  }

  @Test
  void aFailureLeavesNothing() throws IOException {
    Path folder = temp.resolve("folder");
    assertThrows(
        UncheckedIOException.class,
        () ->
            AtomicFolder.write(
                folder,
                beside -> {
                  Files.writeString(beside.resolve("a"), "1");
                  throw new IOException("disk full");
                }));
    assertEquals(List.of(), names(temp));
  }

  @Test
  void leavesAFolderThatHasBeenFilledMeanwhile() throws IOException {
    Path folder = temp.resolve("folder");
    assertThrows(
        UncheckedIOException.class,
        () ->
            AtomicFolder.write(
                folder,
                beside -> Files.writeString(Files.createDirectory(folder).resolve("b"), "")));
    assertEquals(List.of("folder"), names(temp));
    assertEquals(List.of("b"), names(folder));
  }

  private static List<String> names(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files.map(file -> file.getFileName().toString()).sorted().toList();
    }
  }
}
