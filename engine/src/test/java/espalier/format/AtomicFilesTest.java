package espalier.format;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class AtomicFilesTest {

  @TempDir Path folder;

  @Test
  void replacesAFileWhole() throws IOException {
    Path file = folder.resolve("run.json");
    AtomicFiles.write(file, "a long first version");
    AtomicFiles.write(file, "naïve");
    assertEquals("naïve", Files.readString(file));
    AtomicFiles.write(file, JsonNodeFactory.instance.objectNode().put("step", 3));
    assertEquals(3, StrictJson.read(file).integer("step"));
    assertEquals(List.of(file), files());
  }

  @Test
  void keepsTheOldFileWhenWritingFails() throws IOException {
    Path file = folder.resolve("state");
    AtomicFiles.write(file, "old");
    UncheckedIOException failure =
        assertThrows(
            UncheckedIOException.class,
            () ->
                AtomicFiles.write(
                    file,
                    channel -> {
                      channel.write(ByteBuffer.wrap(new byte[100]));
                      throw new IOException("No space left on device");
                    }));
    assertTrue(failure.getMessage().contains(file + " cannot be written: No space left"));
    assertEquals("old", Files.readString(file));
    assertEquals(List.of(file), files(), "nothing may be left beside it");
  }

  @Test
  void theFileIsTheOldOneUntilTheNewOneIsComplete() throws IOException {
    Path file = folder.resolve("state");
    AtomicFiles.write(file, "old");
    AtomicFiles.write(
        file,
        channel -> {
          channel.write(ByteBuffer.wrap("new".getBytes(StandardCharsets.UTF_8)));
          assertEquals("old", Files.readString(file));
        });
    assertEquals("new", Files.readString(file));
  }

  /** As where all processes of a job find at once that a cache lacks something. */
  @Test
  void severalMayWriteASharedFileAtOnce() throws IOException {
    Path file = folder.resolve("state");
    AtomicFiles.writeShared(
        file,
        channel -> {
          Thread other = new Thread(() -> AtomicFiles.writeShared(file, "theirs"));
          other.start();
          join(other);
          assertEquals("theirs", Files.readString(file));
          AtomicFiles.writeFully(channel, ByteBuffer.wrap("mine".getBytes(StandardCharsets.UTF_8)));
        });
    assertEquals("mine", Files.readString(file));
    assertEquals(List.of(file), files());
  }

  private static void join(Thread thread) {
    try {
      thread.join();
    } catch (InterruptedException e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void writesOverTheRemainsOfAKilledProcess() throws IOException {
    Files.writeString(folder.resolve("state.tmp"), "half of a much longer text");
    AtomicFiles.write(folder.resolve("state"), "new");
    assertEquals("new", Files.readString(folder.resolve("state")));
    assertEquals(1, files().size());
  }

  private List<Path> files() throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files.toList();
    }
  }
}
