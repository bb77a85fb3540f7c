package espalier.autograd;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.device.Kernels;
import espalier.device.Places;
import espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

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
  private final Tensor rounded; // null where products read nothing of it
  private final Places places; // null for none

  public ParameterSet(Device device, List<Shape> shapes) {
    this(device, shapes, Map.of());
  }

  /**
   * @param copies by name of the parameter, where products read it: matrices of the device's type
   */
  public ParameterSet(Device device, List<Shape> shapes, Map<String, Tensor> copies) {
    long total = shapes.stream().mapToLong(Shape::size).sum();
    values = Tensor.allocate(device, 1, total);
    gradients = Tensor.allocate(device, 1, total);
    device.kernels().fill(values.data(), 0, total);
    device.kernels().fill(gradients.data(), 0, total);
    rounded =
        device.type() == ElementType.F32
                || shapes.stream().allMatch(shape -> copies.containsKey(shape.name))
            ? null
            : Tensor.allocate(device, 1, total, device.type());
    List<Places.Place> placed = new ArrayList<>();
    parameters = new ArrayList<>(shapes.size());
    long offset = 0;
    for (Shape shape : shapes) {
      Tensor copy = copies.get(shape.name);
      if (copy != null) {
        placed.add(new Places.Place(offset, copy.data(), shape.rows, shape.cols, copy.stride()));
      } else if (rounded != null) {
        copy = shape.of(rounded, offset);
      }
      parameters.add(
          new Parameter(shape.name, shape.of(values, offset), shape.of(gradients, offset), copy));
      offset += shape.size();
    }
    places = placed.isEmpty() ? null : new Places(device, device.type(), placed);
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

  /**
   * Brings the copies that products read up to date; must be called after each change of the
   * values.
   */
  public void round(Kernels kernels) {
    if (rounded != null) {
      kernels.convert(values.data(), ElementType.F32.code(), rounded.data(), size());
    }
    if (places != null) {
      kernels.placeMatrices(values.data(), places);
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
