package espalier.autograd;

import java.util.List;

/**
 * The rule under which the inputs of a residual sum may use the memory of its result's gradient
 * instead of copies.
 *
 * <p>For out = x + branch, both gradients start as a copy of out's. They can share its memory if
 * nobody reads out's gradient afterwards but through them: the branch is used by the sum alone, and
 * everything else that contributes to x's gradient runs, in the backward pass, after the branch's
 * own producer has read it. That is how residual blocks are built; this check makes sure of it.
 */
final class SharedGradients {

  private SharedGradients() {}

  static void check(List<Op> ops) {
    for (Op sum : ops) {
      for (Var shared : sum.gives) {
        if (!sum.writes.contains(shared.sharesGradientWith())) {
          continue;
        }
        for (Op other : ops) {
          if (other != sum && other.gives.contains(shared) && other.index >= limit(sum, shared)) {
            throw new IllegalStateException(
                other + " contributes to a gradient that " + sum + " shares with its result");
          }
        }
      }
    }
  }

  /** Contributions to {@code shared} must come from operations recorded before this one. */
  private static int limit(Op sum, Var shared) {
    int limit = sum.index;
    for (Var sibling : sum.gives) {
      if (sibling != shared && sibling.producer != null) {
        limit = Math.min(limit, sibling.producer.index);
      }
    }
    // For the branch itself the sibling is x, whose producer lies before everything the branch
    // reads: nobody else may
    // contribute to the branch's gradient.
    return limit;
  }
}
