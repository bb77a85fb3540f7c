package espalier.data;

import com.github.luben.zstd.ZstdIOException;
import com.github.luben.zstd.ZstdInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.zip.GZIPInputStream;
import java.util.zip.ZipException;

/** Text files that may be packed: {@code .gz} and {@code .zst}. */
final class Unpacked {

  /**
   * log2 of the bytes that {@code zstd --long=31} looks back, which is the most that the format
   * allows.
   */
  private static final int LARGEST_WINDOW = 31;

  private Unpacked() {}

  /** The file's name without the ending that says how it is packed. */
  static String name(Path file) {
    return file.getFileName().toString().replaceFirst("\\.(gz|zst)$", "");
  }

  static InputStream open(Path file) throws IOException {
    InputStream bytes = Files.newInputStream(file);
    try {
      String name = file.getFileName().toString();
      if (name.endsWith(".gz")) {
        return new GZIPInputStream(bytes, 1 << 16);
      }
      return name.endsWith(".zst") ? new ZstdInputStream(bytes).setLongMax(LARGEST_WINDOW) : bytes;
    } catch (IOException | RuntimeException e) {
      bytes.close();
      throw e;
    }
  }

  /** Whether the fault is in the packed data, and not in reading it. */
  static boolean isDamage(IOException e) {
    return e instanceof ZipException || e instanceof EOFException || e instanceof ZstdIOException;
  }
}
