package espalier.recipe.reproduce;

import espalier.recipe.Console;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

/**
 * Keeps other processes, also on other machines that share the folder, from doing the same work at
 * the same time. The lock ends with the process that holds it, however the process ends.
 */
final class FolderLock implements AutoCloseable {

  private final FileChannel channel;

  private FolderLock(FileChannel channel) {
    this.channel = channel;
  }

  /**
   * Waits until nobody else holds the lock of a folder, and takes it. The folder is made if it does
   * not exist.
   */
  static FolderLock of(Path folder, Console console) {
    Path file = folder.resolve("lock");
    try {
      Files.createDirectories(folder);
      FileChannel channel =
          FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
      FileLock lock = channel.tryLock();
      if (lock == null) {
        console.info("waiting for another process at " + folder);
        channel.lock();
      }
      return new FolderLock(channel);
    } catch (IOException e) {
      throw new UncheckedIOException(file + " cannot be locked", e);
    }
  }

  @Override
  public void close() {
    try {
      channel.close();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
