package espalier.format;

import java.nio.file.Path;
import java.util.Map;

/**
 * A file of named tensors, mapped or unpacked. Their bytes can no longer be used once it is closed.
 */
public interface TensorFile extends AutoCloseable {

  Path file();

  /** All tensors by name. */
  Map<String, TensorEntry> tensors();

  /** A tensor by name. Refuses a missing one. */
  default TensorEntry tensor(String name) {
    TensorEntry entry = tensors().get(name);
    if (entry == null) {
      throw new InputException(file(), "tensor " + name + " is missing");
    }
    return entry;
  }

  /**
   * A tensor by name. Refuses a missing one, another shape, and types that do not hold real
   * numbers.
   */
  default TensorEntry tensor(String name, long... shape) {
    return tensor(name).expect(shape);
  }

  @Override
  void close();
}
