package espalier.model;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.format.ModelFolder;
import espalier.format.Safetensors;
import espalier.format.TensorEntry;
import espalier.nn.FusedRows;
import espalier.tensor.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * A weight in the engine's form: tensors of a model file one after another, so that layers that
 * read the same input are one product.
 *
 * @param parts in the order of their elements
 * @param rows 1 for vectors
 */
record WeightStack(Role role, List<Part> parts, long rows, long cols) {

  /** What decides how a weight is initialised. */
  enum Role {
    MATRIX,
    /** A projection back into the residual stream. */
    BACK,
    GAIN,
    BIAS
  }

  /**
   * A tensor of the stack.
   *
   * @param tensor its name in model files
   * @param rows in the engine's form; 1 for vectors
   * @param stored how files hold it if that differs, else null
   * @param shape as files give it
   */
  record Part(String tensor, long rows, long cols, Stored stored, long... shape) {
    long size() {
      return rows * cols;
    }
  }

  /** How files hold a weight in another order. */
  sealed interface Stored {
    void load(Device device, TensorEntry entry, Tensor held);

    /** Converts in the other direction, into a matrix as files hold it. */
    void toFile(Tensor held, Tensor stored);
  }

  /** As {@code [inputs, outputs]}. */
  record Transposed() implements Stored {
    @Override
    public void load(Device device, TensorEntry entry, Tensor held) {
      entry.copyTo(device, true, MemorySegment.NULL, held);
    }

    @Override
    public void toFile(Tensor held, Tensor stored) {
      int rows = Math.toIntExact(stored.rows());
      int cols = Math.toIntExact(stored.cols());
      float[] values = held.toArray();
      float[] turned = new float[values.length];
      for (int r = 0; r < rows; r++) {
        for (int c = 0; c < cols; c++) {
          turned[r * cols + c] = values[c * rows + r];
        }
      }
      stored.copyFrom(turned);
    }
  }

  /** With rows by head. A bias is a column of such rows. */
  record ByHead(FusedRows rows) implements Stored {
    @Override
    public void load(Device device, TensorEntry entry, Tensor held) {
      Tensor stored = Tensor.allocate(device, held.rows(), held.cols(), held.type());
      entry.copyTo(device, stored);
      rows.fromFile(asRows(stored), asRows(held));
    }

    @Override
    public void toFile(Tensor held, Tensor stored) {
      rows.toFile(asRows(held), asRows(stored));
    }

    private static Tensor asRows(Tensor tensor) {
      return tensor.rows() == 1 ? tensor.reshape(tensor.size(), 1) : tensor;
    }
  }

  static WeightStack vector(Role role, String tensor, long size) {
    return new WeightStack(role, List.of(new Part(tensor, 1, size, null, size)), 1, size);
  }

  static WeightStack matrix(String tensor, long rows, long cols) {
    return new WeightStack(
        Role.MATRIX, List.of(new Part(tensor, rows, cols, null, rows, cols)), rows, cols);
  }

  /** The name of the first part, by which the whole stack is known. */
  String name() {
    return parts.getFirst().tensor();
  }

  /** The stack's type: matrices have the device's type, vectors are float32. */
  ElementType type(Device device) {
    return role == Role.MATRIX || role == Role.BACK ? device.type() : ElementType.F32;
  }

  /** The sum of the ranks of its layers' low-rank updates. */
  long rank(Map<String, Integer> ranks) {
    String suffix = ".weight";
    return parts.stream()
        .map(Part::tensor)
        .filter(tensor -> tensor.endsWith(suffix))
        .mapToLong(
            tensor -> ranks.getOrDefault(tensor.substring(0, tensor.length() - suffix.length()), 0))
        .sum();
  }

  /** Reads all parts into {@code value}, converted to its type. */
  void load(Device device, ModelFolder folder, Tensor value) {
    long at = 0;
    for (Part part : parts) {
      TensorEntry entry = folder.tensor(part.tensor(), part.shape());
      Tensor held = slice(value, at, part);
      if (part.stored() == null) {
        entry.copyTo(device, held);
      } else {
        part.stored().load(device, entry, held);
      }
      at += part.size();
    }
  }

  /** The parts of a value or gradient, in the form that files have. */
  List<Safetensors.Output> outputs(Tensor value) {
    List<Safetensors.Output> outputs = new ArrayList<>();
    long at = 0;
    for (Part part : parts) {
      Tensor held = slice(value, at, part);
      Tensor stored = held;
      if (part.stored() != null) {
        stored = stored(Arena.ofAuto(), part);
        part.stored().toFile(held, stored);
      }
      outputs.add(new Safetensors.Output(part.tensor(), stored, part.shape()));
      at += part.size();
    }
    return outputs;
  }

  /** The rows that a part has in a matrix, or its elements in a vector. */
  private static Tensor slice(Tensor value, long at, Part part) {
    if (value.rows() > 1) {
      return value.rows(at / part.cols(), part.rows());
    }
    return value
        .reshape(1, value.size())
        .columns(at, part.size())
        .reshape(part.rows(), part.cols());
  }

  private static Tensor stored(Arena arena, Part part) {
    long rows = part.shape().length == 1 ? 1 : part.shape()[0];
    return Tensor.of(arena.allocate(part.size() * Float.BYTES, 64), rows, part.size() / rows);
  }
}
