package espalier.recipe;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.AtomicFiles;
import espalier.format.InputException;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.BitSet;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.stream.Stream;

/**
 * Activations of a model on rows of a data set, kept in files from one pass over the data to the
 * next: {@code layer-L.f32}, float32 {@code [rows, context, d]}, filled row by row and read by
 * mapping. Which rows are there is written when the cache is closed, after the rows themselves are
 * on disk; a run that is killed leaves the cache as the run before left it.
 */
final class ActivationCache implements AutoCloseable {

  private static final String CONTENT = "cache.json";
  private static final String PRESENT = "present";

  private final Path folder;
  private final long rowBytes;
  private final BitSet present;
  private final Arena arena = Arena.ofShared();
  private final SortedMap<Integer, MemorySegment> layers = new TreeMap<>();

  private ActivationCache(Path folder, ObjectNode content, long rows, long rowBytes) {
    this.folder = folder;
    this.rowBytes = rowBytes;
    present = readPresent(folder);
    for (JsonNode layer : content.get("layers")) {
      layers.put(layer.intValue(), map(folder.resolve("layer-" + layer + ".f32"), rows * rowBytes));
    }
  }

  /**
   * A new cache in an empty or missing folder, or the one that is there.
   *
   * @param model folder whose files' sizes and times the cache is bound to, as to the data's
   * @throws InputException if the folder holds something else, or activations of something else
   */
  static ActivationCache open(
      Path folder, Path model, List<Path> data, List<Integer> of, long rows, int context, long d) {
    ObjectNode content = JsonNodeFactory.instance.objectNode();
    content.put("rows", rows).put("context", context).put("width", d);
    of.stream().sorted().forEach(content.putArray("layers")::add);
    content.put("model", stamp(List.of(model)));
    content.put("data", stamp(data));
    Path file = folder.resolve(CONTENT);
    try {
      if (Files.exists(file)) {
        if (!new ObjectMapper().readTree(file.toFile()).toString().equals(content.toString())) {
          throw new InputException(
              file,
              "says that the cache was made with another model, data or layers; give it another folder");
        }
      } else {
        Files.createDirectories(folder);
        try (Stream<Path> others = Files.list(folder)) {
          if (others.findAny().isPresent()) {
            throw new InputException(
                "--activation-cache "
                    + folder
                    + ": holds other files; give a folder that is new or empty");
          }
        }
        AtomicFiles.write(file, content);
      }
    } catch (IOException e) {
      throw new InputException("--activation-cache " + folder + ": " + e.getMessage());
    }
    return new ActivationCache(folder, content, rows, context * d * Float.BYTES);
  }

  /** Names, sizes and times of files, those of folders included. */
  private static String stamp(List<Path> paths) {
    StringBuilder stamp = new StringBuilder();
    for (Path path : paths) {
      try (Stream<Path> files = Files.walk(path)) {
        for (Path file : files.filter(Files::isRegularFile).sorted().toList()) {
          stamp
              .append(path.toAbsolutePath().relativize(file.toAbsolutePath()))
              .append(' ')
              .append(Files.size(file))
              .append(' ')
              .append(Files.getLastModifiedTime(file))
              .append(';');
        }
      } catch (IOException e) {
        throw new InputException(path, "cannot be read");
      }
    }
    return stamp.toString();
  }

  private static BitSet readPresent(Path folder) {
    Path file = folder.resolve(PRESENT);
    try {
      return Files.exists(file) ? BitSet.valueOf(Files.readAllBytes(file)) : new BitSet();
    } catch (IOException e) {
      throw new InputException(file, "cannot be read");
    }
  }

  private MemorySegment map(Path file, long bytes) {
    try (FileChannel channel =
        FileChannel.open(
            file, StandardOpenOption.CREATE, StandardOpenOption.READ, StandardOpenOption.WRITE)) {
      return channel.map(FileChannel.MapMode.READ_WRITE, 0, bytes, arena);
    } catch (IOException e) {
      throw new InputException(file, "cannot be made as large as " + bytes + " bytes");
    }
  }

  boolean holds(int row) {
    return present.get(row);
  }

  /** A row's activations of a layer, {@code [context, d]}, to be read or written. */
  MemorySegment row(int layer, int row) {
    return layers.get(layer).asSlice(row * rowBytes, rowBytes);
  }

  /** A row whose activations of all layers have been written. */
  void add(int row) {
    present.set(row);
  }

  @Override
  public void close() {
    layers.values().forEach(MemorySegment::force);
    MemorySegment flags = MemorySegment.ofArray(present.toByteArray());
    AtomicFiles.write(folder.resolve(PRESENT), channel -> AtomicFiles.writeFully(channel, flags));
    arena.close();
  }
}
