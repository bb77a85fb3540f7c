package espalier.format;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;

/**
 * Writes a folder that is either complete or does not exist. It is filled under a temporary name
 * beside the target, and then renamed. If filling it ends early, for example by an interruption,
 * what was written is deleted.
 */
public final class AtomicFolder {

  /** Writes the folder's files. */
  @FunctionalInterface
  public interface Content {
    void writeTo(Path folder) throws IOException;
  }

  private AtomicFolder() {}

  /** Whether {@link #write} may make this folder: it does not exist, or is empty. */
  public static boolean isFree(Path folder) {
    if (!Files.exists(folder)) {
      return true;
    }
    try (Stream<Path> files = Files.list(folder)) {
      return files.findAny().isEmpty();
    } catch (IOException e) { // a file, or a folder that cannot be read
      return false;
    }
  }

  public static void write(Path folder, Content content) {
    Path target = folder.toAbsolutePath().normalize();
    Path beside =
        target.resolveSibling(target.getFileName() + ".tmp" + ProcessHandle.current().pid());
    Thread interrupted = new Thread(() -> delete(beside));
    Runtime.getRuntime().addShutdownHook(interrupted);
    try {
      Files.createDirectories(beside);
      content.writeTo(beside);
      Files.move(beside, target, StandardCopyOption.ATOMIC_MOVE);
      AtomicFiles.flushFolder(target.getParent());
    } catch (IOException e) {
      throw new UncheckedIOException(folder + " cannot be written: " + e.getMessage(), e);
    } finally {
      delete(beside);
      removeHook(interrupted);
    }
  }

  private static void removeHook(Thread hook) {
    try {
      Runtime.getRuntime().removeShutdownHook(hook);
    } catch (IllegalStateException alreadyShuttingDown) {
      return; // and the hook runs
    }
  }

  private static void delete(Path folder) {
    List<Path> files;
    try (Stream<Path> all = Files.walk(folder)) {
      files = all.sorted(Comparator.reverseOrder()).toList();
    } catch (IOException notThere) {
      return;
    }
    for (Path file : files) {
      try {
        Files.deleteIfExists(file);
      } catch (IOException leftBehind) {
        return; // the write's own failure is what matters
      }
    }
  }
}
