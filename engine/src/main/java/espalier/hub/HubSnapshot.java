package espalier.hub;

import java.nio.file.Files;
import java.nio.file.Path;

/**
 * What the cache has of a repository at one commit.
 *
 * @param folder where its files are linked
 * @param absent has an empty file for each file that the repository is known not to have, as
 *     huggingface_hub writes them. A commit never changes, so this need not be asked again
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
