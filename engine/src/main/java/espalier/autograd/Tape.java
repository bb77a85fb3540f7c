package espalier.autograd;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.device.Kernels;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Collections;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Set;

/**
 * A computation, recorded once and replayed at every step.
 *
 * <p>Recording notes each operation with what it reads and writes; nothing is computed. {@link
 * #bind} then gives every value and gradient its place in one block of memory, reusing places whose
 * content is no longer needed. From then on {@link #forward} and {@link #backward} only call
 * kernels: a step allocates nothing, and the same recording can be captured as a graph on a device
 * that has them.
 *
 * <p>Residual sums and norms around them are fused once the recording is complete, see {@link
 * NormFusion}.
 *
 * <p>Work that needs no gradient records no backward pass and keeps no values.
 */
public final class Tape {

  private final Device device;
  private final Kernels kernels;
  private List<Op> ops = new ArrayList<>();
  private final List<Var> vars = new ArrayList<>();
  private final List<Var> outputs = new ArrayList<>();
  private final List<Growing> growing = new ArrayList<>();
  private boolean recordsBeside;
  Beside beside; // for tests, too
  private MemoryPlan plan;

  /** Lists of an operation that may turn out too short. */
  public interface Growing {
    /** Makes room for so many entries. */
    void grow(int entries);
  }

  public Tape(Device device) {
    this.device = device;
    kernels = device.kernels();
  }

  public Device device() {
    return device;
  }

  public Kernels kernels() {
    return kernels;
  }

  /** Memory from outside that operations read, such as a weight; it takes no part in the plan. */
  public Var constant(Tensor tensor) {
    Var var = new Var(tensor.rows(), tensor.cols(), false, tensor.type());
    var.bindValue(tensor);
    return var;
  }

  /** Activations, of the device's type, to be computed by the operation recorded next. */
  public Var value(long rows, long cols, boolean needsGradient) {
    return value(new Var(rows, cols, needsGradient, device.type()));
  }

  /**
   * Like {@link #value(long, long, boolean)}, for activations whose producer and readers respect
   * the {@linkplain Tensor#stride stride}: then other values may be {@linkplain Var#reserve placed
   * to their right}.
   */
  public Var valueWithRoom(long rows, long cols, boolean needsGradient) {
    return value(new Var(rows, cols, needsGradient, device.type(), true));
  }

  /**
   * A value that is no activation and has no gradient: statistics, losses, index lists, scratch. It
   * has four bytes an element.
   */
  public Var value(long rows, long cols) {
    return value(new Var(rows, cols, false, ElementType.F32));
  }

  private Var value(Var var) {
    vars.add(var);
    return var;
  }

  /** Keeps a value readable after the step, for callers that read losses or compare activations. */
  public Var output(Var var) {
    outputs.add(var);
    return var;
  }

  /** Lists outside the plan that {@link #grow} makes longer. */
  public <T extends Growing> T growing(T lists) {
    growing.add(lists);
    return lists;
  }

  /** Makes room in all lists; what was computed last is lost. */
  public void grow(int entries) {
    growing.forEach(lists -> lists.grow(entries));
  }

  public Op op(String name) {
    if (plan != null) {
      throw new IllegalStateException("recorded after planning: " + name);
    }
    Op op = new Op(name, ops.size(), recordsBeside && device.worksBeside());
    ops.add(op);
    return op;
  }

  /**
   * Says whether the operations recorded from now on are a side branch, which may run at the same
   * time as the main branch. The two run concurrently from the first operation of the side branch
   * until an operation of the main branch reads one of its results. In between neither may read
   * what the other computes, and the side branch has no backward pass. A device that gains nothing
   * from this runs everything in order.
   */
  public void beside(boolean now) {
    recordsBeside = now;
  }

  /**
   * The operations that run concurrently: from the first of the side branch to the last that may
   * run before the branches join, as the next one reads a result of the side branch. Empty without
   * a side branch.
   */
  record Beside(int first, int last) {
    private static Beside of(List<Op> ops) {
      int[] indices = ops.stream().filter(op -> op.beside).mapToInt(op -> op.index).toArray();
      if (indices.length == 0) {
        return new Beside(ops.size(), ops.size() - 1);
      }
      int first = indices[0];
      int end = indices[indices.length - 1] + 1;
      Set<Var> computedBeside = Collections.newSetFromMap(new IdentityHashMap<>());
      ops.subList(first, end).stream()
          .filter(op -> op.beside)
          .forEach(op -> computedBeside.addAll(op.writes));
      while (end < ops.size() && Collections.disjoint(ops.get(end).reads, computedBeside)) {
        end++;
      }
      return new Beside(first, end - 1);
    }
  }

  /** Bytes that {@link #bind} needs. Ends the recording. */
  public long bytes() {
    if (plan == null) {
      ops = NormFusion.of(ops, outputs);
      beside = Beside.of(ops);
      plan = MemoryPlan.of(ops, vars, outputs, beside);
    }
    return plan.bytes();
  }

  /**
   * Places all values and gradients in {@code memory}; tapes that run one after another may share
   * it.
   */
  public Tape bind(MemorySegment memory) {
    if (memory.byteSize() < bytes()) {
      throw new IllegalArgumentException(bytes() + " bytes needed, given " + memory.byteSize());
    }
    plan.bind(memory);
    return this;
  }

  /** Plans, allocates and binds. */
  public Tape bind(Device device) {
    return bind(device.allocate(Math.max(bytes(), 1)));
  }

  /**
   * As {@link #bind(Device)}, but everything has memory of its own and no operations are fused.
   * Tests compare the plan and the fusion with this.
   */
  Tape bindWithoutReuse(Device device) {
    beside = Beside.of(ops);
    plan = MemoryPlan.withoutReuse(ops, vars, outputs, beside);
    return bind(device);
  }

  public void forward() {
    for (int i = 0; i < vars.size(); i++) {
      vars.get(i).startPass();
    }
    forward(0, beside.first);
    if (beside.first <= beside.last) {
      device.fork();
      try {
        forward(beside.first, beside.last + 1);
      } finally {
        device.beside(false);
      }
      device.join();
      forward(beside.last + 1, ops.size());
    }
    kernels.within("", "");
  }

  private void forward(int from, int to) {
    boolean isBeside = false;
    for (int i = from; i < to; i++) {
      Op op = ops.get(i);
      if (op.beside != isBeside) {
        isBeside = op.beside;
        device.beside(isBeside);
      }
      kernels.within(op.name, "forward");
      op.forward.run(kernels);
    }
  }

  /**
   * Takes part in the {@link #forward} of the other ranks when this one has nothing to compute:
   * each of them calls that once, and this rank calls this once. Values of this tape are undefined
   * afterwards.
   */
  public void join() {
    for (int i = 0; i < ops.size(); i++) {
      ops.get(i).join.run(kernels);
    }
  }

  /** Adds to the gradients of all trained parameters. After {@link #forward} only, and once. */
  public void backward() {
    for (int i = ops.size() - 1; i >= 0; i--) {
      kernels.within(ops.get(i).name, "backward");
      ops.get(i).backward.run(kernels);
    }
    kernels.within("", "");
  }
}
