package espalier.format;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.zip.ZipFile;

/** What fuzzing needs of this package's inside. */
public final class FormatAccess {

  private FormatAccess() {}

  public static void readPickle(Path file) throws IOException {
    Pickle.read(file, MemorySegment.ofArray(Files.readAllBytes(file)));
  }

  /** Matches the adapter's targets with names of layers, as loading does. */
  public static void match(PeftAdapter adapter) {
    adapter.requireFits(List.copyOf(adapter.layers().keySet()), List.of("lm_head"));
  }

  /** The pickle in a file of torch.save. */
  public static byte[] pickleOf(byte[] torchFile) {
    try {
      Path file = Files.createTempFile("torch", ".pt");
      try (ZipFile zip = new ZipFile(Files.write(file, torchFile).toFile())) {
        return zip.getInputStream(zip.getEntry("ae/data.pkl")).readAllBytes();
      } finally {
        Files.delete(file);
      }
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
