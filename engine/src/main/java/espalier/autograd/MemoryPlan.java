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
 *
 * <p>Operations {@linkplain Tape#beside beside others} may run at any time between the first of
 * them and the last: so for all other buffers, a buffer that they touch lives for all that time.
 */
final class MemoryPlan {

  private static final long ALIGNMENT = 64;

  private static final class Block {
    final Var var;
    final boolean isGradient;
    final long bytes;
    int from = Integer.MAX_VALUE;
    int to = -1;
    boolean beside; // touched by operations beside others
    boolean inOrder; // touched by others
    int earliest; // from and to, as others see it that are not touched beside
    int latest;
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

    void livesAt(int time, boolean isBeside) {
      from = Math.min(from, time);
      to = Math.max(to, time);
      beside |= isBeside;
      inOrder |= !isBeside;
    }

    void seenFrom(int first, int last) {
      earliest = beside ? Math.min(from, first) : from;
      latest = beside ? Math.max(to, last) : to;
    }

    void livesThrough(int end) {
      from = 0;
      to = end;
    }

    boolean meets(Block other) {
      return inOrder || other.inOrder
          ? earliest <= other.latest && other.earliest <= latest
          : from <= other.to && other.from <= to;
    }
  }

  private final List<Var> vars;
  private final List<Block> blocks = new ArrayList<>();
  private final long bytes;

  private MemoryPlan(
      List<Op> ops, List<Var> vars, List<Var> outputs, Tape.Beside beside, boolean reuse) {
    this.vars = vars;
    Map<Var, Block> values = new IdentityHashMap<>();
    Map<Var, Block> gradients = new IdentityHashMap<>();
    for (Var var : vars) {
      values.put(var, new Block(var, false));
      if (var.needsGradient() && var.gradientOwner() == var) {
        gradients.put(var, new Block(var, true));
      }
    }
    checkBeside(ops, beside);
    int end = 2 * ops.size() - 1;
    for (Op op : ops) {
      int forward = op.index;
      int backward = end - op.index;
      op.reads.forEach(v -> live(values, v, forward, op.beside));
      op.writes.forEach(v -> live(values, v, forward, op.beside));
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
    blocks.forEach(b -> b.seenFrom(beside.first(), beside.last()));
    bytes = place();
  }

  private static void checkBeside(List<Op> ops, Tape.Beside beside) {
    Map<Var, Op> writers = new IdentityHashMap<>();
    for (Op op : ops.subList(beside.first(), beside.last() + 1)) {
      if (op.beside && op.needsBackward()) {
        throw new IllegalStateException(op + " is beside others and has a backward pass");
      }
      for (Var var : op.reads) {
        Op writer = writers.get(var);
        if (writer != null && writer.beside != op.beside) {
          throw new IllegalStateException(
              op + " reads " + var + " of " + writer + ", which may run at the same time");
        }
      }
      op.writes.forEach(var -> writers.put(var, op));
    }
  }

  static MemoryPlan of(List<Op> ops, List<Var> vars, List<Var> outputs, Tape.Beside beside) {
    return new MemoryPlan(ops, vars, outputs, beside, true);
  }

  static MemoryPlan withoutReuse(
      List<Op> ops, List<Var> vars, List<Var> outputs, Tape.Beside beside) {
    return new MemoryPlan(ops, vars, outputs, beside, false);
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
    live(blocks, var, time, false);
  }

  private static void live(Map<Var, Block> blocks, Var var, int time, boolean beside) {
    Block block = blocks.get(var);
    if (block != null) { // constants are not planned
      block.livesAt(time, beside);
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
