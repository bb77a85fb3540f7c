package espalier.bindings;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;

import java.net.URI;
import java.net.URL;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.stream.Stream;
import java.util.zip.ZipEntry;
import java.util.zip.ZipOutputStream;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class ResourceFileTest {
  private static final int SIZE = 1_000_003;

  @TempDir Path folder;
  Path cache;
  byte[] content;

  @BeforeEach
  void prepare() {
    cache = folder.resolve("cache");
    content = new byte[SIZE];
    new Random(1).nextBytes(content);
  }

  @Test
  void unpacksOnce() throws Exception {
    URL entry = jar("a.jar", content);
    Path file = ResourceFile.cached(entry, cache);
    assertEquals("lib.so", file.getFileName().toString());
    assertArrayEquals(content, Files.readAllBytes(file));
    var written = Files.getLastModifiedTime(file);
    assertEquals(file, ResourceFile.cached(entry, cache));
    assertEquals(written, Files.getLastModifiedTime(file));
  }

  @Test
  void otherContentIsAnotherFile() throws Exception {
    Path first = ResourceFile.cached(jar("a.jar", content), cache);
    byte[] changed = content.clone();
    changed[SIZE / 2]++;
    Path second = ResourceFile.cached(jar("b.jar", changed), cache);
    assertNotEquals(first, second);
    assertArrayEquals(content, Files.readAllBytes(first));
    assertArrayEquals(changed, Files.readAllBytes(second));
  }

  @Test
  void cutOffFileIsReplaced() throws Exception {
    URL entry = jar("a.jar", content);
    Path file = ResourceFile.cached(entry, cache);
    Files.write(file, new byte[] {1, 2, 3});
    assertArrayEquals(content, Files.readAllBytes(ResourceFile.cached(entry, cache)));
  }

  @Test
  void manyAtOnceAgreeAndLeaveNothingBehind() throws Exception {
    URL entry = jar("a.jar", content);
    Set<Path> files = new HashSet<>();
    try (var pool = Executors.newFixedThreadPool(8)) {
      Callable<Path> unpack =
          () -> {
            Path file = ResourceFile.cached(entry, cache);
            assertArrayEquals(content, Files.readAllBytes(file));
            return file;
          };
      for (Future<Path> done : pool.invokeAll(Stream.generate(() -> unpack).limit(16).toList())) {
        files.add(done.get());
      }
    }
    assertEquals(1, files.size());
    try (Stream<Path> left = Files.list(files.iterator().next().getParent())) {
      assertEquals(List.copyOf(files), left.toList());
    }
  }

  private URL jar(String name, byte[] bytes) throws Exception {
    Path jar = folder.resolve(name);
    try (ZipOutputStream out = new ZipOutputStream(Files.newOutputStream(jar))) {
      out.putNextEntry(new ZipEntry("META-INF/lib.so"));
      out.write(bytes);
      out.closeEntry();
    }
    return URI.create("jar:" + jar.toUri() + "!/META-INF/lib.so").toURL();
  }
}
