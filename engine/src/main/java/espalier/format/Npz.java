package espalier.format;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.Map;

/**
 * Reads NumPy's archives: zip files of {@code .npy} arrays, stored or deflated. Stored arrays stay
 * in the mapped file.
 */
final class Npz {

  private static final String SUFFIX = ".npy";

  private Npz() {}

  static TensorFile open(Path file) {
    return MappedTensors.open(file, Npz::read);
  }

  private static void read(
      Path file,
      Map<String, MemorySegment> members,
      Map<String, TensorEntry> tensors,
      Arena arena) {
    members.forEach(
        (member, bytes) -> {
          if (!member.endsWith(SUFFIX)) {
            throw new InputException(file, "member " + member + " is no array");
          }
          NpyHeader array =
              NpyHeader.read(
                  bytes, what -> new InputException(file, "member " + member + ": " + what));
          if (array.order() != ByteOrder.LITTLE_ENDIAN) {
            throw new InputException(file, "member " + member + " is big-endian");
          }
          String name = member.substring(0, member.length() - SUFFIX.length());
          tensors.put(
              name,
              new TensorEntry(
                  file,
                  name,
                  dtype(array.type()),
                  array.shape(),
                  array.data(),
                  array.byColumns() && array.shape().length == 2));
        });
  }

  private static DType dtype(String type) {
    int bits = 8 * (type.charAt(1) - '0');
    return DType.valueOf(Character.toUpperCase(type.charAt(0)) + String.valueOf(bits));
  }
}
