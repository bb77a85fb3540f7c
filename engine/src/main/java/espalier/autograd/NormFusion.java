package espalier.autograd;

import espalier.autograd.Part.Residual;
import espalier.autograd.Part.Rms;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Stream;

/**
 * Joins residual sums with the norms around them: the norm of the branch (where the family has
 * one), the sum, and a norm that reads the sum, in the same block or in the next, become one
 * operation. A model records each of them by itself and knows nothing of this. Only a complete
 * recording shows whether somebody else reads the values in between.
 *
 * <p>The bits are those of the separate operations. The joined one takes the place of the sum. So
 * the norm behind the sum is computed earlier than recorded, which is allowed because it reads
 * nothing but the sum. In the backward pass it is then the last to add to the sum's gradient, so
 * nothing that was recorded between the two may add to that.
 *
 * <p>The norm of a branch disappears, and with it its value. It must be recorded right before the
 * sum and be read by that alone.
 */
final class NormFusion {

  /**
   * What becomes one operation.
   *
   * @param before the norm of the branch; null for none
   * @param after the norm of the sum; null for none
   */
  private record Group(Op before, Op sum, Op after) {
    Residual residual() {
      return (Residual) sum.part;
    }
  }

  private final List<Op> recorded;
  private final List<Var> outputs;
  private final Map<Var, List<Op>> readers = new IdentityHashMap<>();
  private final Map<Op, Group> groups = new IdentityHashMap<>(); // by their sums
  private final Set<Op> absorbed = new HashSet<>();

  private NormFusion(List<Op> recorded, List<Var> outputs) {
    this.recorded = recorded;
    this.outputs = outputs;
    for (Op op : recorded) {
      op.reads.forEach(v -> readers.computeIfAbsent(v, key -> new ArrayList<>()).add(op));
    }
    recorded.stream().filter(op -> op.part instanceof Residual).forEach(this::group);
  }

  /** The operations to run in the place of those recorded, numbered anew. */
  static List<Op> of(List<Op> recorded, List<Var> outputs) {
    NormFusion fusion = new NormFusion(recorded, outputs);
    List<Op> ops = new ArrayList<>();
    for (Op op : recorded) {
      Group group = fusion.groups.get(op);
      if (group != null) {
        ops.add(fused(group, ops.size()));
      } else if (!fusion.absorbed.contains(op)) {
        op.index = ops.size();
        ops.add(op);
      }
    }
    return ops;
  }

  private void group(Op sum) {
    Residual residual = (Residual) sum.part;
    Op after =
        readers.getOrDefault(residual.sum(), List.of()).stream()
            .filter(op -> op.part instanceof Part.Norm norm && isSimple(norm))
            .filter(op -> between(sum, op).noneMatch(other -> givesTo(other, residual.sum())))
            .findFirst()
            .orElse(null);
    Op before = branchNorm(sum, residual);
    if (before != null && after != null && !areAlike((Rms) before.part, after.part)) {
      before = null;
    }
    if (before == null && after == null) {
      return;
    }
    groups.put(sum, new Group(before, sum, after));
    for (Op op : new Op[] {before, after}) {
      if (op != null) {
        absorbed.add(op);
      }
    }
  }

  /** The operation that only normalises what this sum adds; null if there is none. */
  private Op branchNorm(Op sum, Residual residual) {
    Op op = sum.index == 0 ? null : recorded.get(sum.index - 1);
    return op != null
            && op.part instanceof Rms norm
            && norm.out() == residual.branch()
            && readers.get(norm.out()).equals(List.of(sum))
            && !outputs.contains(norm.out())
            && isSimple(norm)
            && norm.x().needsGradient() == residual.sum().needsGradient()
            && recorded.stream().noneMatch(other -> other != op && givesTo(other, norm.x()))
            && !absorbed.contains(op)
        ? op
        : null;
  }

  private Stream<Op> between(Op first, Op last) {
    return recorded.subList(first.index + 1, last.index).stream();
  }

  private static boolean givesTo(Op op, Var var) {
    return op.gives.contains(var) || op.givesEarly.contains(var);
  }

  /** Not where a weight learns from an input that needs no gradient: that takes scratch. */
  private static boolean isSimple(Part.Norm norm) {
    return norm.x().needsGradient() || !norm.weight().isTrainable();
  }

  private static boolean areAlike(Rms before, Part after) {
    return after instanceof Rms norm
        && norm.offset() == before.offset()
        && norm.eps() == before.eps();
  }

  private static Op fused(Group group, int index) {
    String name = group.sum.name;
    if (group.before != null) {
      name = group.before.name + "+" + name;
    }
    if (group.after != null) {
      name = name + "+" + group.after.name;
    }
    Op op = new Op(name, index, group.sum.beside);
    Residual residual = group.residual();
    if (group.before == null) {
      return sumAndNorm(op, residual, (Part.Norm) group.after.part);
    }
    Rms branch = (Rms) group.before.part;
    return group.after == null
        ? normedSum(op, branch, residual)
        : normedSumAndRms(op, branch, residual, (Rms) group.after.part);
  }

  private static Op sumAndNorm(Op op, Residual r, Part.Norm norm) {
    Var sum = r.sum();
    Var[] statistics = norm.statistics().toArray(Var[]::new);
    List<Var> keeps = new ArrayList<>(norm.statistics());
    keeps.add(sum);
    return op.reads(r.x(), r.branch())
        .writes(sum, norm.out())
        .writes(statistics)
        .forward(k -> norm.forwardOfSum(k, r))
        .backward(
            keeps,
            List.of(r.x(), r.branch()),
            k -> {
              norm.backward(k, norm.out().gradientData(), sum.gradientData(), sum.accumulates());
              r.x().accumulates(); // both hold the sum's gradient from here on
              r.branch().accumulates();
            });
  }

  private static Op normedSum(Op op, Rms branch, Residual r) {
    Var sum = r.sum();
    return op.reads(r.x(), branch.x())
        .writes(sum, branch.rstd())
        .forward(
            k ->
                k.addNormedForward(
                    branch.x().data(),
                    branch.weight().data(),
                    branch.rstd().data(),
                    r.x().data(),
                    sum.data(),
                    MemorySegment.NULL,
                    branch.offset(),
                    branch.eps(),
                    MemorySegment.NULL,
                    0,
                    MemorySegment.NULL,
                    sum.rows(),
                    sum.cols()))
        .backward(
            List.of(branch.x(), branch.rstd()),
            List.of(r.x(), branch.x()),
            k -> {
              boolean accumulate = branch.x().accumulates();
              branch.backward(k, sum.gradientData(), branch.x().gradientData(), accumulate);
              r.x().accumulates(); // it holds the sum's gradient from here on
            });
  }

  private static Op normedSumAndRms(Op op, Rms branch, Residual r, Rms norm) {
    Var sum = r.sum();
    return op.reads(r.x(), branch.x())
        .writes(sum, branch.rstd(), norm.out(), norm.rstd())
        .forward(
            k ->
                k.addNormedForward(
                    branch.x().data(),
                    branch.weight().data(),
                    branch.rstd().data(),
                    r.x().data(),
                    sum.data(),
                    norm.weight().data(),
                    norm.offset(),
                    norm.eps(),
                    norm.out().value().data(),
                    norm.out().value().stride(),
                    norm.rstd().data(),
                    sum.rows(),
                    sum.cols()))
        .backward(
            List.of(sum, norm.rstd(), branch.x(), branch.rstd()),
            List.of(r.x(), branch.x()),
            k -> {
              branch.x().accumulates(); // nobody else gives to it: it is overwritten
              k.addNormedBackward(
                  sum.data(),
                  norm.weight().data(),
                  norm.rstd().data(),
                  norm.out().gradientData(),
                  sum.gradientData(),
                  sum.accumulates(),
                  norm.weight().gradientData(),
                  branch.x().data(),
                  branch.weight().data(),
                  branch.rstd().data(),
                  norm.offset(),
                  branch.x().gradientData(),
                  branch.weight().gradientData(),
                  sum.rows(),
                  sum.cols());
              r.x().accumulates(); // it holds the sum's gradient from here on
            });
  }
}
