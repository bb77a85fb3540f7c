package espalier.format;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

/**
 * Writes a safetensors file whose tensors need not be in memory. The header says how large each is,
 * and each writes its bytes when its turn comes.
 */
public final class SafetensorsWriter {

  private SafetensorsWriter() {}

  /**
   * A tensor.
   *
   * @param content writes as many bytes as shape and type say
   */
  public record Part(String name, DType dtype, long[] shape, AtomicFiles.Content content) {
    private long bytes() {
      long bytes = dtype.bytes();
      for (long n : shape) {
        bytes *= n;
      }
      return bytes;
    }
  }

  /** Writes the file atomically, with the parts in the given order. */
  public static void write(Path file, List<Part> parts, Map<String, String> metadata) {
    byte[] header = padded(header(parts, metadata).toString());
    AtomicFiles.write(
        file,
        channel -> {
          ByteBuffer length = ByteBuffer.allocate(Long.BYTES).order(ByteOrder.LITTLE_ENDIAN);
          AtomicFiles.writeFully(channel, length.putLong(header.length).flip());
          AtomicFiles.writeFully(channel, ByteBuffer.wrap(header));
          for (Part part : parts) {
            long end = channel.position() + part.bytes();
            part.content.writeTo(channel);
            if (channel.position() != end) {
              throw new IllegalStateException(
                  part.name + " ends at byte " + channel.position() + ", not at " + end);
            }
          }
        });
  }

  private static ObjectNode header(List<Part> parts, Map<String, String> metadata) {
    ObjectNode header = JsonNodeFactory.instance.objectNode();
    if (!metadata.isEmpty()) {
      ObjectNode meta = header.putObject("__metadata__");
      new TreeMap<>(metadata).forEach(meta::put); // Map.of has another order in every process
    }
    long offset = 0;
    for (Part part : parts) {
      if (header.has(part.name)) {
        throw new IllegalArgumentException("two tensors named " + part.name);
      }
      ObjectNode entry = header.putObject(part.name);
      entry.put("dtype", part.dtype.name());
      var shape = entry.putArray("shape");
      for (long n : part.shape) {
        shape.add(n);
      }
      long end = offset + part.bytes();
      entry.putArray("data_offsets").add(offset).add(end);
      offset = end;
    }
    return header;
  }

  /** The header, filled up with spaces to a multiple of eight bytes, so that data is aligned. */
  private static byte[] padded(String json) {
    int length = json.getBytes(StandardCharsets.UTF_8).length;
    return (json + " ".repeat(-length & 7)).getBytes(StandardCharsets.UTF_8);
  }
}
