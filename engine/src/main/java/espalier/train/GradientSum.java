package espalier.train;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.distributed.Ranks;
import espalier.tensor.Tensor;
import java.util.ArrayList;
import java.util.List;

/**
 * Adds up the gradients of a step's micro-batches, those of all ranks.
 *
 * <p>{@link Order#FIXED}: along a binary tree over the micro-batches' numbers, whoever computes
 * them: [0, n) is [0, p) + [p, n) with p the largest power of two below n. So n micro-batches give
 * the same bits on one rank, on n, or on any number between. Each rank first adds up the subtrees
 * that lie entirely in its share. The rest of the tree is divided by slices of the gradients: each
 * rank adds one slice of all ranks' subtrees ({@link Ranks#exchange}), and the slices are put
 * together ({@link Ranks#collect}). If each rank has one subtree (its number of micro-batches is a
 * power of two), N ranks each send and receive 2 (N - 1) / N times the size of the gradients, as in
 * a ring all-reduce. With more subtrees, of which a rank has at most 2 log2 of its micro-batches,
 * it is more.
 *
 * <p>{@link Order#FASTEST}: kernels add each micro-batch to the gradients of those before, and MPI
 * or NCCL add up the ranks in an order of their own.
 */
public final class GradientSum {

  /** In which order gradients are added up. */
  public enum Order {
    FIXED,
    FASTEST
  }

  /** Floats that are exchanged at a time: few beside a model, many beside a message. */
  private static final long BLOCK = 1 << 24;

  private static final long ALIGNMENT = 16;

  /** The micro-batches {@code [start, start + 2^level)}, summed. */
  private record Node(long start, int level) {
    boolean isRightOf(Node left) {
      return left.level == level && left.start + (1L << level) == start && isRightChild();
    }

    boolean isRightChild() {
      return (start >> level & 1) == 1;
    }

    Node parent() {
      return new Node(start - (1L << level), level + 1);
    }
  }

  private final Device device;
  private final Ranks ranks;
  private final Order order;
  private final int accumulate;
  private final Tensor gradients;

  /**
   * By rank: its nodes at the end of a step. The last one is in its gradients, the others in its
   * buffers.
   */
  private final List<List<Node>> nodes = new ArrayList<>();

  /**
   * This rank's nodes so far in this step, without the last; each is in the buffer of its index.
   */
  private final List<Node> held = new ArrayList<>();

  private final List<Tensor> buffers = new ArrayList<>();
  private final List<Tensor> received = new ArrayList<>();

  /**
   * @param accumulate micro-batches of each rank
   * @param gradients {@code [1, n]}, where kernels add a micro-batch's gradients
   */
  GradientSum(Device device, Ranks ranks, Order order, int accumulate, Tensor gradients) {
    this.device = device;
    this.ranks = ranks;
    this.order = order;
    this.accumulate = accumulate;
    this.gradients = gradients;
    for (int r = 0; r < ranks.size(); r++) {
      nodes.add(nodesOf((long) r * accumulate, accumulate));
    }
    if (order == Order.FASTEST) {
      return;
    }
    for (int i = 0; i < mostHeld(); i++) {
      buffers.add(Tensor.allocate(device, 1, gradients.size()));
    }
    int rounds = nodes.stream().mapToInt(List::size).max().orElseThrow();
    for (int i = 0; ranks.size() > 1 && i < rounds; i++) {
      long block = Math.min(BLOCK, gradients.size());
      received.add(Tensor.allocate(device, 1, slice(block) * ranks.size()));
    }
  }

  /** Micro-batches of a step, those of all ranks. */
  long microBatches() {
    return (long) accumulate * ranks.size();
  }

  /** The number in its step of this rank's first micro-batch. */
  private long first() {
    return (long) ranks.rank() * accumulate;
  }

  /** To be called before each of this rank's micro-batches, counted from 0. */
  void begin(int i) {
    if (i == 0) {
      held.clear();
    }
    if (i == 0 || order == Order.FIXED) {
      device.kernels().fill(gradients.data(), 0, gradients.size());
    }
  }

  /** To be called after each of this rank's micro-batches. */
  void add(int i) {
    if (order == Order.FASTEST) {
      return;
    }
    Node node = new Node(first() + i, 0);
    while (!held.isEmpty() && node.isRightOf(held.getLast())) {
      addTo(gradients, buffers.get(held.size() - 1));
      held.removeLast();
      node = node.parent();
    }
    if (i + 1 < accumulate) {
      device
          .kernels(ElementType.F32)
          .copy(gradients.data(), buffers.get(held.size()).data(), gradients.size());
      held.add(node);
    }
  }

  /**
   * Makes the gradients those of the whole step, on all ranks. It relies on no calls of {@link
   * #add} in this step: the micro-batches may have been replayed.
   */
  void finish() {
    if (order == Order.FASTEST) {
      for (long at = 0; at < gradients.size(); at += BLOCK) {
        long n = Math.min(BLOCK, gradients.size() - at);
        ranks.sum(gradients.columns(at, n).data(), n);
      }
    } else if (ranks.size() > 1) {
      for (long at = 0; at < gradients.size(); at += BLOCK) {
        finishBlock(at, Math.min(BLOCK, gradients.size() - at));
      }
    } else {
      for (int i = heldAtEnd() - 1; i >= 0; i--) {
        addTo(gradients, buffers.get(i));
      }
    }
  }

  /**
   * How many of this rank's nodes are in its buffers once it has gone through its micro-batches.
   */
  private int heldAtEnd() {
    return nodes.get(ranks.rank()).size() - 1;
  }

  private void finishBlock(long at, long n) {
    long slice = slice(n);
    long own = Math.clamp(n - ranks.rank() * slice, 0, slice);
    for (int round = 0; round < received.size(); round++) {
      Tensor mine = round < heldAtEnd() ? buffers.get(round) : gradients;
      ranks.exchange(mine.columns(at, n).data(), received.get(round).data(), n, slice);
    }
    Tensor whole = gradients.columns(at, n);
    if (own > 0) {
      Tensor sum = sumSlices(slice, own);
      device
          .kernels(ElementType.F32)
          .copy(sum.data(), whole.columns(ranks.rank() * slice, own).data(), own);
    }
    ranks.collect(whole.data(), n, slice);
  }

  /** Adds up this rank's slice of all nodes of all ranks, along the tree. */
  private Tensor sumSlices(long slice, long own) {
    List<Node> left = new ArrayList<>();
    List<Tensor> values = new ArrayList<>();
    for (int r = 0; r < ranks.size(); r++) {
      List<Node> theirs = nodes.get(r);
      for (int i = 0; i < theirs.size(); i++) {
        Node node = theirs.get(i);
        Tensor value = received.get(i).columns(r * slice, own);
        while (!left.isEmpty() && node.isRightOf(left.getLast())) {
          addTo(value, values.removeLast());
          left.removeLast();
          node = node.parent();
        }
        left.add(node);
        values.add(value);
      }
    }
    Tensor sum = values.removeLast();
    while (!values.isEmpty()) {
      addTo(sum, values.removeLast());
    }
    return sum;
  }

  /** The subtrees that are whole in {@code [first, first + count)}, in order. */
  private static List<Node> nodesOf(long first, int count) {
    List<Node> nodes = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      Node node = new Node(first + i, 0);
      while (!nodes.isEmpty() && node.isRightOf(nodes.getLast())) {
        nodes.removeLast();
        node = node.parent();
      }
      nodes.add(node);
    }
    return nodes;
  }

  /** The most nodes that wait at once while this rank goes through its micro-batches. */
  private int mostHeld() {
    int most = 0;
    for (int count = 1; count < accumulate; count++) {
      most = Math.max(most, nodesOf(first(), count).size());
    }
    return most;
  }

  private long slice(long n) {
    long each = (n + ranks.size() - 1) / ranks.size();
    return (each + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }

  /** {@code into += from}; the sum of two floats does not depend on their order. */
  private void addTo(Tensor into, Tensor from) {
    device.kernels(ElementType.F32).axpy(1, from.data(), into.data(), into.size());
  }
}
