package espalier.format;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.device.Transfer;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A safetensors file, mapped: eight bytes with the header's length, a JSON header, then the bytes
 * of the tensors. Nothing in the header is believed before it is checked. No bytes are copied until
 * a tensor is.
 *
 * <p>Format: github.com/huggingface/safetensors, README, "Format".
 */
public final class Safetensors implements TensorFile {

  private static final long LARGEST_HEADER = 100_000_000;

  private final Path file;
  private final Arena arena;
  private final Map<String, TensorEntry> tensors = new LinkedHashMap<>();
  private final Map<String, String> metadata = new LinkedHashMap<>();

  private Safetensors(Path file, Arena arena) {
    this.file = file;
    this.arena = arena;
  }

  public static Safetensors open(Path file) {
    if (!Files.isRegularFile(file)) {
      throw new InputException(file, "no such file");
    }
    Arena arena = Arena.ofShared();
    try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
      long size = channel.size();
      if (size < Long.BYTES) {
        throw new InputException(file, "cut off: " + size + " bytes are no safetensors file");
      }
      Safetensors result = new Safetensors(file, arena);
      result.read(channel.map(FileChannel.MapMode.READ_ONLY, 0, size, arena));
      return result;
    } catch (IOException e) {
      arena.close();
      throw new InputException(file, "cannot be read");
    } catch (RuntimeException e) {
      arena.close();
      throw e;
    }
  }

  @Override
  public Path file() {
    return file;
  }

  /** All tensors by name, in the header's order. */
  @Override
  public Map<String, TensorEntry> tensors() {
    return Collections.unmodifiableMap(tensors);
  }

  /** The strings under {@code __metadata__}. */
  public Map<String, String> metadata() {
    return Collections.unmodifiableMap(metadata);
  }

  /** Unmaps the file. The bytes of its tensors can then no longer be used. */
  @Override
  public void close() {
    arena.close();
  }

  private void read(MemorySegment all) {
    long headerSize =
        all.get(ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN), 0);
    if (headerSize < 2 || headerSize > LARGEST_HEADER) {
      throw new InputException(
          file, "no safetensors file: its header would have " + headerSize + " bytes");
    }
    if (headerSize > all.byteSize() - Long.BYTES) {
      throw new InputException(
          file,
          "cut off: a header of %d bytes in a file of %d".formatted(headerSize, all.byteSize()));
    }
    byte[] header = all.asSlice(Long.BYTES, headerSize).toArray(ValueLayout.JAVA_BYTE);
    StrictJson json = StrictJson.parse(file, text(header));
    MemorySegment data = all.asSlice(Long.BYTES + headerSize);
    for (String name : json.keys()) {
      StrictJson value =
          json.object(name).orElseThrow(() -> json.fault(name, "is null in the header"));
      if (name.equals("__metadata__")) {
        value.keys().forEach(key -> metadata.put(key, value.text(key)));
      } else {
        tensors.put(name, entry(name, value, data));
      }
    }
    checkLayout(data);
  }

  /**
   * The header's text. The reference library refuses any byte before the brace, while others skip
   * white space.
   */
  private String text(byte[] header) {
    if (header[0] != '{') {
      throw new InputException(file, "no safetensors file: its header is no JSON object");
    }
    try {
      return StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(header)).toString();
    } catch (CharacterCodingException e) {
      throw new InputException(file, "its header is not UTF-8 text");
    }
  }

  private TensorEntry entry(String name, StrictJson json, MemorySegment data) {
    DType dtype;
    try {
      dtype = DType.valueOf(json.text("dtype"));
    } catch (IllegalArgumentException e) {
      throw new InputException(file, "tensor " + name + " has unknown dtype " + json.text("dtype"));
    }
    long[] shape = integers(name, "shape", json);
    long[] offsets = integers(name, "data_offsets", json);
    if (offsets.length != 2 || offsets[0] > offsets[1]) {
      throw new InputException(file, "tensor " + name + " has no valid data_offsets");
    }
    if (offsets[1] > data.byteSize()) {
      throw new InputException(
          file,
          "cut off: tensor %s ends at byte %d of %d".formatted(name, offsets[1], data.byteSize()));
    }
    long bytes = dtype.bytes();
    try {
      for (long n : shape) {
        bytes = Math.multiplyExact(bytes, n);
      }
    } catch (ArithmeticException e) {
      throw new InputException(file, "tensor " + name + " has an impossible shape");
    }
    if (bytes != offsets[1] - offsets[0]) {
      throw new InputException(
          file,
          "tensor %s needs %d bytes for its shape, its offsets give %d"
              .formatted(name, bytes, offsets[1] - offsets[0]));
    }
    return new TensorEntry(file, name, dtype, shape, data.asSlice(offsets[0], bytes));
  }

  private long[] integers(String name, String key, StrictJson json) {
    JsonNode array = json.raw(key);
    if (!array.isArray()) {
      throw new InputException(file, "tensor " + name + " has no " + key);
    }
    long[] values = new long[array.size()];
    for (int i = 0; i < values.length; i++) {
      JsonNode value = array.get(i);
      if (!value.isIntegralNumber() || !value.canConvertToLong() || value.longValue() < 0) {
        throw new InputException(file, "tensor " + name + " has an invalid " + key);
      }
      values[i] = value.longValue();
    }
    return values;
  }

  /**
   * Refuses a file in which tensors do not lie one after another, without overlaps, holes or a
   * rest, as the reference library demands.
   */
  private void checkLayout(MemorySegment data) {
    List<TensorEntry> order = new ArrayList<>(tensors.values());
    order.sort(
        Comparator.comparingLong((TensorEntry t) -> t.data().address())
            .thenComparingLong(t -> t.data().byteSize()));
    long at = data.address();
    String before = "the header";
    for (TensorEntry entry : order) {
      if (entry.data().address() < at) {
        throw new InputException(file, "tensors " + before + " and " + entry.name() + " overlap");
      }
      if (entry.data().address() > at) {
        throw new InputException(file, "unused bytes before tensor " + entry.name());
      }
      at += entry.data().byteSize();
      before = entry.name();
    }
    if (at != data.address() + data.byteSize()) {
      throw new InputException(
          file,
          "%d bytes of data, its tensors have %d".formatted(data.byteSize(), at - data.address()));
    }
  }

  /** A tensor to be written as float32, with a shape of any rank. */
  public record Output(String name, Tensor tensor, long... shape) {
    public Output {
      long size = 1;
      for (long n : shape) {
        size *= n;
      }
      if (size != tensor.size() || !tensor.isContiguous()) {
        throw new IllegalArgumentException(name + ": " + size + " elements of " + tensor.size());
      }
    }

    /** A matrix with its own shape. */
    public static Output matrix(String name, Tensor tensor) {
      return new Output(name, tensor, tensor.rows(), tensor.cols());
    }

    /** A single row as a vector. */
    public static Output vector(String name, Tensor tensor) {
      return new Output(name, tensor, tensor.size());
    }
  }

  /**
   * Writes float32 tensors atomically, ordered by name as the reference library orders those of one
   * type.
   */
  public static void write(Path file, List<Output> outputs, Map<String, String> metadata) {
    List<Output> order = new ArrayList<>(outputs);
    order.sort(Comparator.comparing(Output::name));
    SafetensorsWriter.write(
        file,
        order.stream()
            .map(
                output ->
                    new SafetensorsWriter.Part(
                        output.name,
                        DType.F32,
                        output.shape,
                        channel -> AtomicFiles.writeFully(channel, bytes(output.tensor))))
            .toList(),
        metadata);
  }

  private static MemorySegment bytes(Tensor tensor) {
    return Transfer.onHost(tensor.bytes());
  }
}
