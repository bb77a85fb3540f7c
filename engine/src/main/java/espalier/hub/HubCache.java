package espalier.hub;

import espalier.format.AtomicFiles;
import espalier.format.InputException;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The cache that huggingface_hub keeps. {@code models--owner--name} has {@code blobs}, by checksum;
 * {@code snapshots} of commits, which consist of links to blobs; and {@code refs}, which lead from
 * branches and tags to commits.
 */
final class HubCache {

  private static final Pattern COMMIT = Pattern.compile("[0-9a-f]{40}");

  private static final Pattern SNAPSHOT =
      Pattern.compile("/models--([^/]+?)--([^/]+)/snapshots/[0-9a-f]{40}$");

  private final Path root;

  HubCache(Path root) {
    this.root = root;
  }

  /** The owner and name of the repository that a snapshot's folder belongs to. */
  static Optional<String> repository(Path snapshot) {
    Matcher matcher = SNAPSHOT.matcher(snapshot.toString());
    return matcher.find()
        ? Optional.of(matcher.group(1) + "/" + matcher.group(2))
        : Optional.empty();
  }

  /** The snapshot that a revision stands for, if it was ever downloaded. */
  Optional<HubSnapshot> snapshot(HubName name) {
    Path folder = root.resolve(name.folder());
    String commit = name.revision();
    Path ref = folder.resolve("refs").resolve(name.revision());
    if (Files.isRegularFile(ref)) {
      try {
        commit = Files.readString(ref).strip();
      } catch (IOException e) {
        return Optional.empty();
      }
    }
    if (!COMMIT.matcher(commit).matches()) {
      return Optional.empty();
    }
    HubSnapshot snapshot = snapshot(name, commit);
    return Files.isDirectory(snapshot.folder()) ? Optional.of(snapshot) : Optional.empty();
  }

  /** The snapshot of a commit, whose files are there or will be. */
  HubSnapshot snapshot(HubName name, String commit) {
    Path folder = root.resolve(name.folder());
    return new HubSnapshot(
        folder.resolve("snapshots").resolve(commit), folder.resolve(".no_exist").resolve(commit));
  }

  /** Notes that the repository has no such file at this commit. */
  void noteAbsent(HubName name, String commit, String path) {
    Path mark = snapshot(name, commit).absent().resolve(path);
    try {
      Files.createDirectories(mark.getParent());
      if (!Files.exists(mark)) {
        Files.write(mark, new byte[0]);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(mark + " cannot be written: " + e.getMessage(), e);
    }
  }

  /** Downloads a blob into the file that it is given. */
  interface Download {
    void into(Path file);
  }

  /**
   * Makes sure that a snapshot has a file: links its blob, which is downloaded if the cache does
   * not have it.
   *
   * <p>Another Espalier may do the same at the same time; a lock keeps it away from the unfinished
   * file. huggingface_hub has the same lock file, but its flock and the lock of a Java channel do
   * not notice each other. So both may download a blob, each into a file with a name of its own;
   * the later one replaces it by the same bytes.
   */
  void provide(HubName name, String commit, HubFile file, Download download) {
    Path folder = root.resolve(name.folder());
    Path blob = folder.resolve("blobs").resolve(file.blob());
    Path link = snapshot(name, commit).folder().resolve(file.path());
    Path lockFile = root.resolve(".locks").resolve(name.folder()).resolve(file.blob() + ".lock");
    try {
      Files.createDirectories(blob.getParent());
      Files.createDirectories(link.getParent());
      Files.createDirectories(lockFile.getParent());
      try (FileChannel channel =
          FileChannel.open(lockFile, StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
        channel.lock(); // until the channel is closed
        if (!Files.exists(blob)) {
          Path unfinished = blob.resolveSibling(file.blob() + ".espalier.incomplete");
          download.into(unfinished);
          check(name, file, unfinished);
          Files.move(unfinished, blob, StandardCopyOption.ATOMIC_MOVE);
        }
        link(link, blob);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(root + " cannot be written: " + e.getMessage(), e);
    }
  }

  /** Notes that the revision stands for the commit. */
  void refer(HubName name, String commit) {
    if (name.revision().equals(commit)) {
      return;
    }
    Path ref = root.resolve(name.folder()).resolve("refs").resolve(name.revision());
    try {
      Files.createDirectories(ref.getParent());
    } catch (IOException e) {
      throw new UncheckedIOException(ref + " cannot be written: " + e.getMessage(), e);
    }
    AtomicFiles.writeShared(ref, commit);
  }

  /** Links relatively, so that the cache can be moved as a whole. */
  private static void link(Path link, Path blob) throws IOException {
    if (Files.exists(link)) {
      return;
    }
    Path beside = link.resolveSibling(link.getFileName() + ".tmp" + ProcessHandle.current().pid());
    Files.deleteIfExists(beside);
    Files.createSymbolicLink(beside, link.getParent().relativize(blob));
    Files.move(beside, link, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
  }

  /**
   * Refuses and deletes a file that is not what the Hub has. It is worth nothing, and would later
   * be taken for the file.
   */
  private static void check(HubName name, HubFile file, Path content) throws IOException {
    long size = Files.size(content);
    String sum =
        file.large() ? sum("SHA-256", "", content) : sum("SHA-1", "blob " + size + "\0", content);
    if (!sum.equals(file.blob()) || (file.size() >= 0 && size != file.size())) {
      Files.delete(content);
      throw new InputException(
          "%s: %s arrived damaged: its checksum is %s, but the Hub's is %s; it was deleted, so try again"
              .formatted(name, file.path(), sum, file.blob()));
    }
  }

  private static String sum(String algorithm, String prefix, Path file) throws IOException {
    try (InputStream in = Files.newInputStream(file)) {
      MessageDigest digest = MessageDigest.getInstance(algorithm);
      digest.update(prefix.getBytes(StandardCharsets.US_ASCII));
      byte[] buffer = new byte[1 << 16];
      for (int n = in.read(buffer); n >= 0; n = in.read(buffer)) {
        digest.update(buffer, 0, n);
      }
      return HexFormat.of().formatHex(digest.digest());
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException("every JDK has " + algorithm, e);
    }
  }
}
