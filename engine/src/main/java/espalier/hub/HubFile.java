package espalier.hub;

/**
 * A file of a repository.
 *
 * @param path within the repository
 * @param size bytes; negative if the Hub does not say
 * @param blob the checksum of its content: the sha256 of a large file, git's sha1 of a small one
 * @param large whether it is kept outside git
 */
record HubFile(String path, long size, String blob, boolean large) {

  /** The last part of its path. */
  String name() {
    return path.substring(path.lastIndexOf('/') + 1);
  }

  /** The folder it is in; empty for the top. */
  String folder() {
    return path.contains("/") ? path.substring(0, path.lastIndexOf('/')) : "";
  }
}
