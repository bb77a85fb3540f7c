package espalier.autograd;

import espalier.device.Kernels;
import java.util.ArrayList;
import java.util.List;

/**
 * One recorded operation: what it reads and writes, and the kernel calls of its forward and
 * backward pass. The declarations let the tape plan memory: a value lives from its operation to its
 * last reader, or to the backward pass that keeps it.
 */
public final class Op {

  /** Kernel calls. They run at every step and must not allocate. */
  @FunctionalInterface
  public interface Action {
    void run(Kernels kernels);
  }

  private static final Action NOTHING = kernels -> {};

  final String name;
  int index;
  final boolean beside; // may run at the same time as those that are not: see Tape.beside
  Part part; // null: nothing is fused with it
  final List<Var> reads = new ArrayList<>();
  final List<Var> writes = new ArrayList<>();
  final List<Var> keeps = new ArrayList<>();
  final List<Var> gives = new ArrayList<>();
  final List<Var> givesEarly = new ArrayList<>();
  final List<Var> backwardScratch = new ArrayList<>();
  Action forward = NOTHING;
  Action backward = NOTHING;
  Action join = NOTHING;

  Op(String name, int index, boolean beside) {
    this.name = name;
    this.index = index;
    this.beside = beside;
  }

  public Op reads(Var... vars) {
    reads.addAll(List.of(vars));
    return this;
  }

  /** Values this operation computes, results and scratch alike. */
  public Op writes(Var... vars) {
    for (Var var : vars) {
      var.producer = this;
      writes.add(var);
    }
    return this;
  }

  /** Lets {@link NormFusion} compute it together with others. */
  Op as(Part part) {
    this.part = part;
    return this;
  }

  public Op forward(Action action) {
    forward = action;
    return this;
  }

  /**
   * Where ranks hold an operation's weights together: this rank's part in the forward pass of the
   * others, when it has nothing to compute for itself.
   */
  public Op join(Action action) {
    join = action;
    return this;
  }

  /**
   * The gradient of {@code var} is computed in the forward pass already (a loss that fuses both).
   */
  public Op givesInForward(Var var) {
    if (var.needsGradient()) {
      givesEarly.add(var);
    }
    return this;
  }

  /**
   * The backward pass, recorded only if a result needs a gradient.
   *
   * @param keeps values that it reads, and that must live until then
   * @param gives inputs whose gradients it writes or adds to; those that need none are left out
   */
  public Op backward(List<Var> keeps, List<Var> gives, Action action) {
    if (needsBackward()) {
      this.keeps.addAll(keeps);
      gives.stream().filter(Var::needsGradient).forEach(this.gives::add);
      backward = action;
    }
    return this;
  }

  /** Memory that only the backward pass uses. */
  public Op backwardScratch(Var... vars) {
    if (needsBackward()) {
      backwardScratch.addAll(List.of(vars));
    }
    return this;
  }

  boolean needsBackward() {
    return writes.stream().anyMatch(Var::needsGradient);
  }

  @Override
  public String toString() {
    return name + "#" + index;
  }
}
