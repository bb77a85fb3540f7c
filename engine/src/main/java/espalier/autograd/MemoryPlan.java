package espalier.autograd;

import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;

/**
 * Where each value and gradient of a tape lies in one block of memory.
 *
 * <p>Time runs over the operations forward and then backward: operation i of n runs at time i, its
 * backward pass at 2n - 1 - i. Each buffer lives over an interval of that time; buffers whose
 * intervals meet must not overlap. Places are chosen greedily, the largest buffer first, each at
 * the lowest offset that is free for its whole life.
 */
final class MemoryPlan {

  private static final long ALIGNMENT = 64;

  private static final class Block {
    final Var var;
    final boolean isGradient;
    final long bytes;
    int from = Integer.MAX_VALUE;
    int to = -1;
    long offset;

    Block(Var var, boolean isGradient) {
      this.var = var;
      this.isGradient = isGradient;
      long exact = var.rows() * stride() * var.type().bytes();
      bytes = (exact + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }

    long stride() {
      return isGradient ? var.cols() : var.stride();
    }

    void livesAt(int time) {
      from = Math.min(from, time);
      to = Math.max(to, time);
    }

    void livesThrough(int end) {
      from = 0;
      to = end;
    }

    boolean meets(Block other) {
      return from <= other.to && other.from <= to;
    }
  }

  private final List<Var> vars;
  private final List<Block> blocks = new ArrayList<>();
  private final long bytes;

  private MemoryPlan(List<Op> ops, List<Var> vars, List<Var> outputs, boolean reuse) {
    this.vars = vars;
    Map<Var, Block> values = new IdentityHashMap<>();
    Map<Var, Block> gradients = new IdentityHashMap<>();
    for (Var var : vars) {
      values.put(var, new Block(var, false));
      if (var.needsGradient() && var.gradientOwner() == var) {
        gradients.put(var, new Block(var, true));
      }
    }
    int end = 2 * ops.size() - 1;
    for (Op op : ops) {
      int forward = op.index;
      int backward = end - op.index;
      op.reads.forEach(v -> live(values, v, forward));
      op.writes.forEach(v -> live(values, v, forward));
      op.keeps.forEach(v -> live(values, v, backward));
      op.backwardScratch.forEach(v -> live(values, v, backward));
      op.givesEarly.forEach(v -> live(gradients, v.gradientOwner(), forward));
      op.gives.forEach(v -> live(gradients, v.gradientOwner(), backward));
      op.writes.stream()
          .filter(Var::needsGradient)
          .forEach(v -> live(gradients, v.gradientOwner(), backward));
    }
    outputs.forEach(v -> live(values, v, end + 1));
    SharedGradients.check(ops);
    values.values().stream().filter(b -> b.to >= 0).forEach(blocks::add);
    gradients.values().stream().filter(b -> b.to >= 0).forEach(blocks::add);
    if (!reuse) {
      blocks.forEach(b -> b.livesThrough(end + 1));
    }
    bytes = place();
  }

  static MemoryPlan of(List<Op> ops, List<Var> vars, List<Var> outputs) {
    return new MemoryPlan(ops, vars, outputs, true);
  }

  static MemoryPlan withoutReuse(List<Op> ops, List<Var> vars, List<Var> outputs) {
    return new MemoryPlan(ops, vars, outputs, false);
  }

  long bytes() {
    return bytes;
  }

  void bind(MemorySegment memory) {
    for (Block block : blocks) {
      Tensor place =
          new Tensor(
              memory.asSlice(block.offset, block.bytes, ALIGNMENT),
              block.var.rows(),
              block.var.cols(),
              block.stride(),
              block.var.type());
      if (block.isGradient) {
        block.var.bindGradient(place);
      } else {
        block.var.bindValue(place);
      }
    }
    for (Var var : vars) {
      if (var.needsGradient() && var.gradientOwner() != var) {
        var.bindGradient(var.gradientOwner().gradient());
      }
    }
  }

  private static void live(Map<Var, Block> blocks, Var var, int time) {
    Block block = blocks.get(var);
    if (block != null) { // constants are not planned
      block.livesAt(time);
    }
  }

  private long place() {
    // Ties are broken by time so that the plan does not depend on identity hashes.
    blocks.sort(
        Comparator.comparingLong((Block b) -> -b.bytes)
            .thenComparingInt(b -> b.from)
            .thenComparingInt(b -> b.to)
            .thenComparing(b -> b.isGradient));
    List<Block> placed = new ArrayList<>();
    long top = 0;
    for (Block block : blocks) {
      long offset = 0;
      for (Block other : placed) { // sorted by offset
        if (other.meets(block)) {
          if (other.offset - offset >= block.bytes) {
            break;
          }
          offset = Math.max(offset, other.offset + other.bytes);
        }
      }
      block.offset = offset;
      int at = 0;
      while (at < placed.size() && placed.get(at).offset <= offset) {
        at++;
      }
      placed.add(at, block);
      top = Math.max(top, offset + block.bytes);
    }
    return top;
  }
}
