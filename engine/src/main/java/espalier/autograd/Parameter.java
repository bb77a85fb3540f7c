package espalier.autograd;

import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;

/**
 * A weight of a model: its value and, where it is trained, its gradient of the same shape. A frozen
 * weight has no gradient buffer.
 *
 * @param name as files spell it
 * @param value float32 where it is trained; frozen matrices have the device's type
 * @param gradient float32, or null when frozen
 * @param rounded a copy of a trained weight for products, where these do not read the value itself:
 *     where the device computes in another type than float32, or where the weight has a place
 *     beside another; else null
 */
public record Parameter(String name, Tensor value, Tensor gradient, Tensor rounded) {

  public static Parameter frozen(String name, Tensor value) {
    return new Parameter(name, value, null, null);
  }

  /** The same weight, for passes that do not train it. */
  public Parameter frozen() {
    return new Parameter(name, value, null, rounded);
  }

  /** The weight as products read it, of the device's type. */
  public Tensor matrix() {
    return rounded == null ? value : rounded;
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
        && (gradient == null || gradient.data().address() + bytes == next.gradient.data().address())
        && matrix().data().address() + rows() * matrix().stride() * matrix().type().bytes()
            == next.matrix().data().address();
  }

  public long rows() {
    return value.rows();
  }

  public long cols() {
    return value.cols();
  }

  /** The elements of a vector: bias, gain, threshold. */
  public MemorySegment data() {
    return value.data();
  }

  /** Where the gradient is added up; {@link MemorySegment#NULL} when frozen. */
  public MemorySegment gradientData() {
    return gradient == null ? MemorySegment.NULL : gradient.data();
  }
}
