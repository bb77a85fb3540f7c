package espalier.autograd;

import espalier.device.ElementType;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/**
 * A matrix {@code [rows, cols]} that a recorded operation computes, and its gradient if one is
 * needed. Memory is assigned when the tape is bound; until then only the shape is known.
 */
public final class Var {

  private final long rows;
  private final long cols;
  private final boolean needsGradient;
  private final ElementType type;
  private final boolean mayHaveRoom;
  private long reserved; // columns right of its own
  private Tensor value;
  private Tensor gradient;
  private boolean gradientStarted;
  private Var sharesGradientWith;
  private final List<Columns> columns = new ArrayList<>();

  /** The operation that computes it; null for data from outside. */
  Op producer;

  Var(long rows, long cols, boolean needsGradient, ElementType type) {
    this(rows, cols, needsGradient, type, false);
  }

  Var(long rows, long cols, boolean needsGradient, ElementType type, boolean mayHaveRoom) {
    this.mayHaveRoom = mayHaveRoom;
    this.rows = rows;
    this.cols = cols;
    this.needsGradient = needsGradient;
    this.type = type;
  }

  public long rows() {
    return rows;
  }

  public long cols() {
    return cols;
  }

  public long size() {
    return rows * cols;
  }

  /** Of the value and of its gradient. */
  public ElementType type() {
    return type;
  }

  public boolean needsGradient() {
    return needsGradient;
  }

  public Tensor value() {
    return value;
  }

  public Tensor gradient() {
    return gradient;
  }

  /** Of rows one after another; where they may lie apart, {@link #value} has their stride. */
  public MemorySegment data() {
    if (reserved > 0) {
      throw new IllegalStateException(this + " is read as if nothing lay between its rows");
    }
    return value.data();
  }

  public MemorySegment gradientData() {
    return gradient.data();
  }

  /**
   * Makes room for {@code count} columns right of this value's own, to be written by one operation
   * that reads this value: {@link #columns} from {@link #cols} on, which have no gradient. They
   * live as long as the value, and both are one matrix.
   *
   * @return whether it can be: not where whoever computes the value writes rows one after another,
   *     nor where the room is taken
   */
  boolean reserve(long count) {
    if (!mayHaveRoom || reserved > 0) {
      return false;
    }
    reserved = count;
    return true;
  }

  /** Elements from one row of the value to the next. */
  long stride() {
    return WeightBlock.rowLength(cols, reserved);
  }

  /**
   * Called by an operation that is about to write this gradient: false for the first of a pass,
   * which overwrites, true for the later ones, which add.
   */
  public boolean accumulates() {
    boolean started = gradientStarted;
    gradientStarted = true;
    return started;
  }

  /**
   * From now on this gradient lives in the memory of {@code other}'s; see {@link SharedGradients}.
   */
  void shareGradientWith(Var other) {
    if (sharesGradientWith != null) {
      throw new IllegalStateException("the gradient of " + this + " is shared already");
    }
    sharesGradientWith = other;
  }

  /** What {@link #shareGradientWith} was told; null where nothing. */
  Var sharesGradientWith() {
    return sharesGradientWith;
  }

  /** Whose gradient memory this one uses; itself where it has its own. */
  Var gradientOwner() {
    Var owner = this;
    while (owner.sharesGradientWith != null) {
      owner = owner.sharesGradientWith;
    }
    return owner;
  }

  void startPass() {
    gradientStarted = false;
  }

  /** Some columns of a value and of its gradient: views that follow when the tape is bound. */
  public static final class Columns {
    private final long from;
    private final long count;
    private Tensor value;
    private Tensor gradient;

    private Columns(long from, long count) {
      this.from = from;
      this.count = count;
    }

    public Tensor value() {
      return value;
    }

    public Tensor gradient() {
      return gradient;
    }

    public MemorySegment data() {
      return value.data();
    }

    public MemorySegment gradientData() {
      return gradient.data();
    }
  }

  /** The columns {@code [from, from + count)}, reserved ones included. */
  public Columns columns(long from, long count) {
    if (from < 0 || count < 1 || from + count > cols + reserved) {
      throw new IndexOutOfBoundsException(
          "columns [" + from + ", " + (from + count) + ") of " + this);
    }
    Columns view = new Columns(from, count);
    columns.add(view);
    return view;
  }

  void bindValue(Tensor memory) {
    value = memory;
    Tensor all = new Tensor(memory.data(), rows, cols + reserved, memory.stride(), type);
    columns.forEach(view -> view.value = all.columns(view.from, view.count));
  }

  void bindGradient(Tensor memory) {
    gradient = memory;
    columns.stream()
        .filter(view -> view.from < cols)
        .forEach(view -> view.gradient = memory.columns(view.from, view.count));
  }

  @Override
  public String toString() {
    return "[" + rows + ", " + cols + "]";
  }
}
