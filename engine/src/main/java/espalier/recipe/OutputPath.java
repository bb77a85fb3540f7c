package espalier.recipe;

import espalier.format.InputException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * Checks places for results: what cannot be written is refused before the work, not after it. The
 * checks leave nothing behind.
 */
public final class OutputPath {

  private static final String TRIAL = ".espalier";

  private OutputPath() {}

  /** Refuses a file that could not be written in the end. */
  public static void checkFile(String option, Path file) {
    Path folder = file.toAbsolutePath().getParent();
    if (folder == null || !Files.isDirectory(folder)) {
      throw refusal(option, file, "there is no folder " + folder);
    }
    if (Files.exists(file) && !Files.isRegularFile(file)) { // which would replace /dev/null
      throw refusal(option, file, "is no regular file");
    }
    try {
      Files.delete(Files.createTempFile(folder, TRIAL, null));
    } catch (IOException e) {
      throw refusal(option, file, "no file can be made in " + folder);
    }
  }

  /** Refuses what exists in the place of a folder and is none. */
  public static void refuseFile(String option, Path folder) {
    if (Files.exists(folder) && !Files.isDirectory(folder)) {
      throw refusal(option, folder, "exists, but is no folder");
    }
  }

  /**
   * Refuses a folder that could not be made (with its parents), or in which no file could be made.
   */
  public static void checkFolder(String option, Path folder) {
    Path there = folder.toAbsolutePath();
    while (!Files.exists(there)) {
      there = there.getParent();
    }
    if (!Files.isDirectory(there)) {
      throw refusal(option, folder, there + " is no folder");
    }
    if (Files.exists(folder)) { // in which other ranks must see nothing
      if (!Files.isWritable(folder)) {
        throw refusal(option, folder, "nothing can be written there");
      }
      return;
    }
    try { // permissions do not tell of all: root may do anything, but not in /proc
      Files.delete(Files.createTempDirectory(there, TRIAL));
    } catch (IOException e) {
      throw refusal(option, folder, "no folder can be made in " + there);
    }
  }

  private static InputException refusal(String option, Path path, String why) {
    return new InputException(option + " " + path + ": " + why);
  }
}
