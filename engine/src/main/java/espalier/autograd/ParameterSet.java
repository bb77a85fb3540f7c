package espalier.autograd;

import espalier.device.Device;
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
  }

  private final List<Parameter> parameters;
  private final Tensor values;
  private final Tensor gradients;

  public ParameterSet(Device device, List<Shape> shapes) {
    long total = shapes.stream().mapToLong(Shape::size).sum();
    values = Tensor.allocate(device, 1, total);
    gradients = Tensor.allocate(device, 1, total);
    device.kernels().fill(values.data(), 0, total);
    device.kernels().fill(gradients.data(), 0, total);
    parameters = new ArrayList<>(shapes.size());
    long offset = 0;
    for (Shape shape : shapes) {
      parameters.add(
          new Parameter(
              shape.name,
              values.columns(offset, shape.size()).reshape(shape.rows, shape.cols),
              gradients.columns(offset, shape.size()).reshape(shape.rows, shape.cols)));
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
