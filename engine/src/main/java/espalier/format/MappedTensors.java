package espalier.format;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;

/** The tensors of a mapped zip file, as {@link Npz} and {@link TorchFile} find them in it. */
final class MappedTensors implements TensorFile {

  private final Path file;
  private final Arena arena = Arena.ofShared();
  private final Map<String, TensorEntry> tensors = new LinkedHashMap<>();

  private MappedTensors(Path file) {
    this.file = file;
  }

  interface Reader {
    /** Puts what the members hold into {@code tensors}. New memory comes from the arena. */
    void read(
        Path file,
        Map<String, MemorySegment> members,
        Map<String, TensorEntry> tensors,
        Arena arena);
  }

  static TensorFile open(Path file, Reader reader) {
    if (!Files.isRegularFile(file)) {
      throw new InputException(file, "no such file");
    }
    MappedTensors result = new MappedTensors(file);
    try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
      MemorySegment all =
          channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size(), result.arena);
      reader.read(file, ZipMembers.read(file, all, result.arena), result.tensors, result.arena);
      return result;
    } catch (IOException e) {
      result.close();
      throw new InputException(file, "cannot be read");
    } catch (RuntimeException e) {
      result.close();
      throw e;
    }
  }

  @Override
  public Path file() {
    return file;
  }

  @Override
  public Map<String, TensorEntry> tensors() {
    return Collections.unmodifiableMap(tensors);
  }

  @Override
  public void close() {
    arena.close();
  }
}
