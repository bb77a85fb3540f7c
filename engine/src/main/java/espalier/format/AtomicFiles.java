package espalier.format;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;

/**
 * Writes files that are either complete or do not exist. A file is written under a temporary name
 * beside the target, flushed to disk, and then renamed. Whatever happens before that, even a full
 * disk, the old file stays.
 */
public final class AtomicFiles {

  /** Writes a file's content. */
  @FunctionalInterface
  public interface Content {
    void writeTo(FileChannel channel) throws IOException;
  }

  private static final long PIECE = 1L << 24;

  private AtomicFiles() {}

  /** Writes a file of which there is one writer; what a killed one leaves the next writes over. */
  public static void write(Path file, Content content) {
    write(file, file.resolveSibling(file.getFileName() + ".tmp"), content);
  }

  /**
   * Writes a file that several processes may write at once, such as those of a job into a cache:
   * each beside in a file of its own, so that the last one's content stays.
   */
  public static void writeShared(Path file, Content content) {
    String own = ".tmp" + ProcessHandle.current().pid() + "-" + Thread.currentThread().threadId();
    write(file, file.resolveSibling(file.getFileName() + own), content);
  }

  private static void write(Path file, Path beside, Content content) {
    try {
      try (FileChannel channel =
          FileChannel.open(
              beside,
              StandardOpenOption.CREATE,
              StandardOpenOption.TRUNCATE_EXISTING,
              StandardOpenOption.WRITE)) {
        content.writeTo(channel);
        channel.force(true);
      }
      Files.move(beside, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
      flushFolder(file.toAbsolutePath().getParent());
    } catch (IOException e) {
      deleteQuietly(beside);
      throw new UncheckedIOException(file + " cannot be written: " + e.getMessage(), e);
    }
  }

  public static void write(Path file, String text) {
    write(file, content(text));
  }

  /** Writes text that several processes may write at once. */
  public static void writeShared(Path file, String text) {
    writeShared(file, content(text));
  }

  private static Content content(String text) {
    return channel -> writeFully(channel, ByteBuffer.wrap(text.getBytes(StandardCharsets.UTF_8)));
  }

  /** Writes a JSON document, indented. */
  public static void write(Path file, ObjectNode json) {
    write(file, json.toPrettyString() + "\n");
  }

  /** Copies a file, or what a link points to. */
  public static void copy(Path from, Path to) {
    try (FileChannel source = FileChannel.open(from, StandardOpenOption.READ)) {
      write(
          to,
          channel -> {
            for (long at = 0; at < source.size(); ) {
              at += source.transferTo(at, source.size() - at, channel);
            }
          });
    } catch (IOException e) {
      throw new UncheckedIOException(from + " cannot be copied: " + e.getMessage(), e);
    }
  }

  /** Writes all bytes: a channel may take fewer than it is given. */
  public static void writeFully(FileChannel channel, ByteBuffer bytes) throws IOException {
    while (bytes.hasRemaining()) {
      channel.write(bytes);
    }
  }

  /** Writes memory of any size, a piece at a time, as a buffer cannot be larger than 2 GiB. */
  public static void writeFully(FileChannel channel, MemorySegment bytes) throws IOException {
    for (long at = 0; at < bytes.byteSize(); at += PIECE) {
      long size = Math.min(PIECE, bytes.byteSize() - at);
      writeFully(channel, bytes.asSlice(at, size).asByteBuffer());
    }
  }

  /** Makes sure that the rename itself survives a power cut. */
  static void flushFolder(Path folder) throws IOException {
    try (FileChannel channel = FileChannel.open(folder, StandardOpenOption.READ)) {
      channel.force(true);
    }
  }

  private static void deleteQuietly(Path file) {
    try {
      Files.deleteIfExists(file);
    } catch (IOException leftBehind) {
      // The write's own failure is what matters, and the next write truncates the remains.
      return;
    }
  }
}
