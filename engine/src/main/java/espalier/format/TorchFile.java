package espalier.format;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Map;

/**
 * Reads state dictionaries that torch.save has written since version 1.6: a zip file with a pickle,
 * {@code data.pkl}, and a member for each storage. Tensors stay in the mapped file.
 */
final class TorchFile {

  private static final String PICKLE = "/data.pkl";

  private TorchFile() {}

  static TensorFile open(Path file) {
    return MappedTensors.open(file, TorchFile::read);
  }

  private static void read(
      Path file,
      Map<String, MemorySegment> members,
      Map<String, TensorEntry> tensors,
      Arena arena) {
    String pickle =
        members.keySet().stream()
            .filter(name -> name.endsWith(PICKLE) && name.indexOf('/') == name.length() - 9)
            .findFirst()
            .orElseThrow(
                () -> new InputException(file, "no file of torch.save: data.pkl is missing"));
    String root = pickle.substring(0, pickle.length() - PICKLE.length());
    MemorySegment order = members.get(root + "/byteorder");
    if (order != null && !text(order).equals("little")) {
      throw new InputException(file, "is big-endian");
    }
    Pickle.read(file, members.get(pickle))
        .forEach(
            (key, value) -> {
              if (!(key instanceof String name)) {
                throw new InputException(file, "key " + key + " is not a name");
              }
              tensors.put(
                  name,
                  switch (value) {
                    case Pickle.Tensor tensor -> entry(file, name, tensor, root, members);
                    case Long number -> scalar(file, name, number, arena);
                    default -> throw new InputException(file, "key " + name + " is no tensor");
                  });
            });
  }

  private static TensorEntry entry(
      Path file,
      String name,
      Pickle.Tensor tensor,
      String root,
      Map<String, MemorySegment> members) {
    DType dtype = dtype(file, name, tensor.storage().type());
    MemorySegment storage = members.get(root + "/data/" + tensor.storage().key());
    long elements = tensor.storage().elements();
    if (storage == null || elements < 0 || storage.byteSize() / dtype.bytes() < elements) {
      throw new InputException(file, "tensor " + name + ": its storage is missing or cut off");
    }
    long[] shape = tensor.shape();
    long size = 1;
    for (long n : shape) {
      if (n < 0 || (n > 0 && size > elements / n)) {
        throw new InputException(
            file, "tensor %s: %s does not fit its storage".formatted(name, Arrays.toString(shape)));
      }
      size *= n;
    }
    long offset = tensor.offset();
    if (offset < 0 || offset > elements - size) {
      throw new InputException(file, "tensor " + name + " lies outside its storage");
    }
    boolean columnMajor = isColumnMajor(file, name, shape, tensor.strides());
    return new TensorEntry(
        file,
        name,
        dtype,
        shape,
        storage.asSlice(offset * dtype.bytes(), size * dtype.bytes()),
        columnMajor);
  }

  /**
   * Whether a tensor lies column by column, as torch initialises tied encoders, and not row by row.
   */
  private static boolean isColumnMajor(Path file, String name, long[] shape, long[] strides) {
    if (strides.length == shape.length) {
      long[] rowMajor = new long[shape.length];
      long stride = 1;
      for (int i = shape.length - 1; i >= 0; i--) {
        rowMajor[i] = stride;
        stride *= shape[i];
      }
      if (agree(shape, strides, rowMajor)) {
        return false;
      }
      if (shape.length == 2 && agree(shape, strides, new long[] {1, shape[0]})) {
        return true;
      }
    }
    throw new InputException(
        file,
        "tensor %s of shape %s has strides %s, which are not supported"
            .formatted(name, Arrays.toString(shape), Arrays.toString(strides)));
  }

  /** Whether strides are as expected. The stride along a dimension of one element means nothing. */
  private static boolean agree(long[] shape, long[] strides, long[] expected) {
    for (int i = 0; i < shape.length; i++) {
      if (shape[i] > 1 && strides[i] != expected[i]) {
        return false;
      }
    }
    return true;
  }

  private static TensorEntry scalar(Path file, String name, long value, Arena arena) {
    MemorySegment memory = arena.allocate(ValueLayout.JAVA_LONG, value);
    return new TensorEntry(file, name, DType.I64, new long[0], memory);
  }

  private static DType dtype(Path file, String name, String storage) {
    return switch (storage) {
      case "FloatStorage" -> DType.F32;
      case "DoubleStorage" -> DType.F64;
      case "HalfStorage" -> DType.F16;
      case "BFloat16Storage" -> DType.BF16;
      case "LongStorage" -> DType.I64;
      case "IntStorage" -> DType.I32;
      case "ShortStorage" -> DType.I16;
      case "CharStorage" -> DType.I8;
      case "ByteStorage" -> DType.U8;
      case "BoolStorage" -> DType.BOOL;
      default ->
          throw new InputException(file, "tensor " + name + " is in a " + storage + ", not known");
    };
  }

  private static String text(MemorySegment bytes) {
    return new String(bytes.toArray(ValueLayout.JAVA_BYTE), StandardCharsets.UTF_8);
  }
}
