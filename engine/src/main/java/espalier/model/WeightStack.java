package espalier.model;

import java.util.List;

/**
 * A weight as the engine holds it: tensors of a model file stacked on top of each other, so that
 * layers which read the same input are one product.
 *
 * @param parts in the order of their rows
 * @param cols of each part
 */
record WeightStack(List<Part> parts, long cols) {

  /**
   * @param tensor its name in model files
   * @param rows 1 for vectors
   * @param shape as files give it
   */
  record Part(String tensor, long rows, long... shape) {}

  static WeightStack vector(String tensor, long size) {
    return new WeightStack(List.of(new Part(tensor, 1, size)), size);
  }

  static WeightStack matrix(String tensor, long rows, long cols) {
    return new WeightStack(List.of(new Part(tensor, rows, rows, cols)), cols);
  }

  /** The first part's name, under which the whole stack is known. */
  String name() {
    return parts.getFirst().tensor();
  }

  long rows() {
    return parts.stream().mapToLong(Part::rows).sum();
  }
}
