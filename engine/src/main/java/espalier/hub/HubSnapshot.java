package espalier.hub;

import java.nio.file.Files;
import java.nio.file.Path;

/**
 * What of a repository at one commit is in the cache.
 *
 * @param folder where its files are linked
 * @param absent holds an empty file for each that the repository is known not to have, as
 *     huggingface_hub writes them: a commit never changes, so nobody has to ask again
 */
record HubSnapshot(Path folder, Path absent) {

  boolean has(String path) {
    return Files.isRegularFile(folder.resolve(path));
  }

  /** Whether the repository is known to have no such file. */
  boolean hasNot(String path) {
    return Files.isRegularFile(absent.resolve(path));
  }
}
