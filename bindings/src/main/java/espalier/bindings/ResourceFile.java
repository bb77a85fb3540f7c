package espalier.bindings;

import java.io.IOException;
import java.io.InputStream;
import java.net.JarURLConnection;
import java.net.URI;
import java.net.URL;
import java.net.URLConnection;
import java.nio.channels.Channels;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.jar.JarEntry;

/** A resource on the class path as a file that the dynamic linker can open. */
final class ResourceFile {
  private ResourceFile() {}

  /**
   * The file itself where the class path is a folder; else a copy of the jar's entry in the cache.
   */
  static Path of(String name) {
    URL url = ResourceFile.class.getClassLoader().getResource(name);
    if (url == null) throw new NativeUnavailableException("not on the class path: " + name);
    try {
      if (url.getProtocol().equals("file")) return Path.of(URI.create(url.toString()));
      return cached(url, cacheFolder());
    } catch (IOException e) {
      throw new NativeUnavailableException(
          "cannot unpack %s: %s (XDG_CACHE_HOME names another place for the cache)"
              .formatted(name, e),
          e);
    }
  }

  /**
   * A copy in a folder named by the content's CRC-32 and size, which the jar's directory has
   * already: a start costs no reading of 37 MB. Two programs may unpack at once: each writes its
   * own file, the last rename wins, and both are alike.
   */
  static Path cached(URL url, Path cache) throws IOException {
    URLConnection connection = url.openConnection();
    if (!(connection instanceof JarURLConnection jar)) {
      throw new IOException("neither in a folder nor in a jar: " + url);
    }
    JarEntry entry = jar.getJarEntry();
    String fileName = entry.getName().substring(entry.getName().lastIndexOf('/') + 1);
    Path folder = cache.resolve("%08x-%d".formatted(entry.getCrc(), entry.getSize()));
    Path file = folder.resolve(fileName);
    if (Files.isRegularFile(file) && Files.size(file) == entry.getSize()) return file;

    Files.createDirectories(folder);
    Path fresh = Files.createTempFile(folder, fileName, ".tmp");
    try (InputStream in = jar.getInputStream();
        FileChannel out = FileChannel.open(fresh, StandardOpenOption.WRITE)) {
      in.transferTo(Channels.newOutputStream(out));
      out.force(true);
      Files.move(fresh, file, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    } finally {
      Files.deleteIfExists(fresh);
    }
    return file;
  }

  /** {@code $XDG_CACHE_HOME/espalier/native}, by default under {@code ~/.cache}. */
  static Path cacheFolder() {
    String xdg = System.getenv("XDG_CACHE_HOME");
    Path base =
        xdg == null || xdg.isEmpty()
            ? Path.of(System.getProperty("user.home"), ".cache")
            : Path.of(xdg);
    return base.resolve("espalier").resolve("native").toAbsolutePath();
  }
}
