package espalier.autograd;

import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/**
 * A weight of a model: its value and, where it is trained, its gradient of the same shape. A frozen
 * weight has no gradient buffer.
 *
 * @param name as files spell it
 * @param gradient or null when frozen
 */
public record Parameter(String name, Tensor value, Tensor gradient) {

  public static Parameter frozen(String name, Tensor value) {
    return new Parameter(name, value, null);
  }

  /** The same weight, for passes that do not train it. */
  public Parameter frozen() {
    return new Parameter(name, value, null);
  }

  public boolean isTrainable() {
    return gradient != null;
  }

  /**
   * Whether {@code next} lies right behind this one in memory, its gradient too, so that both can
   * be read as one.
   */
  public boolean isFollowedBy(Parameter next) {
    long bytes = value.size() * Float.BYTES;
    return value.data().address() + bytes == next.value.data().address()
        && (gradient == null
            || gradient.data().address() + bytes == next.gradient.data().address());
  }

  public long rows() {
    return value.rows();
  }

  public long cols() {
    return value.cols();
  }

  public MemorySegment data() {
    return value.data();
  }

  /** Where the gradient is added up; {@link MemorySegment#NULL} when frozen. */
  public MemorySegment gradientData() {
    return gradient == null ? MemorySegment.NULL : gradient.data();
  }
}
