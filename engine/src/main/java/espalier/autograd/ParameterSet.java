package espalier.autograd;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.device.Kernels;
import espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;

/**
 * The trained parameters of a job, laid out one after another in one flat buffer of values and one
 * of gradients, so that the optimizer, the gradient norm and a checkpoint each handle one array.
 *
 * <p>Parameters lie in the order they are declared, without gaps: declare side by side what a fused
 * product reads as one matrix.
 */
public final class ParameterSet {

  /** A parameter to be laid out. */
  public record Shape(String name, long rows, long cols) {
    long size() {
      return rows * cols;
    }

    private Tensor of(Tensor flat, long offset) {
      return flat.columns(offset, size()).reshape(rows, cols);
    }
  }

  private final List<Parameter> parameters;
  private final Tensor values;
  private final Tensor gradients;
  private final Tensor rounded; // null where the device computes in float32

  public ParameterSet(Device device, List<Shape> shapes) {
    long total = shapes.stream().mapToLong(Shape::size).sum();
    values = Tensor.allocate(device, 1, total);
    gradients = Tensor.allocate(device, 1, total);
    device.kernels().fill(values.data(), 0, total);
    device.kernels().fill(gradients.data(), 0, total);
    rounded =
        device.type() == ElementType.F32 ? null : Tensor.allocate(device, 1, total, device.type());
    parameters = new ArrayList<>(shapes.size());
    long offset = 0;
    for (Shape shape : shapes) {
      parameters.add(
          new Parameter(
              shape.name,
              shape.of(values, offset),
              shape.of(gradients, offset),
              rounded == null ? null : shape.of(rounded, offset)));
      offset += shape.size();
    }
  }

  public List<Parameter> parameters() {
    return parameters;
  }

  public Parameter get(String name) {
    return parameters.stream()
        .filter(p -> p.name().equals(name))
        .findFirst()
        .orElseThrow(() -> new IllegalArgumentException("no parameter " + name));
  }

  /** Brings what products read up to date with the values: after each change of them. */
  public void round(Kernels kernels) {
    if (rounded != null) {
      kernels.convert(values.data(), ElementType.F32.code(), rounded.data(), size());
    }
  }

  /** All values as one row. */
  public Tensor values() {
    return values;
  }

  /** All gradients as one row, in the order of {@link #values()}. */
  public Tensor gradients() {
    return gradients;
  }

  public long size() {
    return values.size();
  }
}
