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

  /**
   * The value's memory, where its rows are contiguous. A value with room between its rows is read
   * through {@link #value}, which has the stride.
   *
   * @throws IllegalStateException if there is room between the rows
   */
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
   * Reserves {@code count} columns to the right of this value's own, for one operation that reads
   * this value to write: {@link #columns} from {@link #cols} on. They have no gradient, live as
   * long as the value, and form one matrix with it.
   *
   * @return false where that is not possible: the value's producer writes contiguous rows, or the
   *     room is taken already
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
   * To be called by each operation that is about to write this gradient. The first of a pass must
   * overwrite it, the later ones must add to it.
   *
   * @return whether the caller must add; this call counts as its write
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
