package espalier.nn;

import espalier.autograd.LinearMap;
import espalier.autograd.LowRank;
import espalier.autograd.Parameter;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import java.util.ArrayList;
import java.util.List;

/**
 * Linear layers that read the same input, computed as one: their weights are stacked, their outputs
 * lie side by side.
 *
 * @param weight {@code [sum of outputs, in]}
 * @param bias {@code [1, sum of outputs]} or null
 * @param projections the layers in the order of their rows
 */
public record Linear(Parameter weight, Parameter bias, List<Projection> projections) {

  /**
   * A linear layer as files and adapters name it.
   *
   * @param path such as {@code model.layers.3.mlp.up_proj}
   * @param outputs rows of its weight
   * @param rows how files order these rows, where that differs from the engine's order; else null
   */
  public record Projection(String path, long outputs, FusedRows rows) {
    public Projection(String path, long outputs) {
      this(path, outputs, null);
    }
  }

  public Linear {
    long rows = projections.stream().mapToLong(Projection::outputs).sum();
    if (rows != weight.rows()) {
      throw new IllegalArgumentException(
          weight.name() + " has " + weight.rows() + " rows, " + projections + " need " + rows);
    }
  }

  public long inputs() {
    return weight.cols();
  }

  /** {@code [tokens, in]} to {@code [tokens, sum of outputs]}. */
  public Var forward(Tape tape, Var x, Adapters adapters) {
    List<LinearMap.Update> updates = new ArrayList<>();
    long from = 0;
    for (Projection projection : projections) {
      LowRank update = adapters.byPath().get(projection.path());
      if (update != null) {
        updates.add(new LinearMap.Update(from, update));
      }
      from += projection.outputs();
    }
    return LinearMap.apply(tape, x, weight, bias, updates, adapters.seed());
  }
}
