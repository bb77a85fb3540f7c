package espalier.autograd;

import espalier.device.Device;
import espalier.device.ElementType;
import espalier.tensor.Tensor;

/**
 * A frozen weight with room for the low-rank updates of its rows, so that both are one operand of a
 * product: y = [x xA^T] [W B]^T.
 *
 * <pre>
 *   W  B    [out, in]   [out, rank]
 *   A       [rank, in]
 * </pre>
 *
 * Updates that read the same input have their A one below the other and their B side by side, each
 * in the rows of W that it updates; elsewhere beside W is 0.
 *
 * @param all {@code [out + rank, in + rank]}, with rows a multiple of {@link #MULTIPLE} elements
 *     apart
 */
public record WeightBlock(Tensor all, long out, long in) {

  /** Rows begin at multiples of this: the elements of two bytes that kernels read at a time. */
  static final long MULTIPLE = 8;

  /** All zero. */
  public static WeightBlock allocate(Device device, long out, long in, long rank) {
    ElementType type = device.type();
    long bytes = bytes(type, out, in, rank);
    Tensor all =
        new Tensor(device.allocate(bytes), out + rank, in + rank, rowLength(in, rank), type);
    device.kernels().fill(all.data(), 0, bytes / Float.BYTES);
    return new WeightBlock(all, out, in);
  }

  public static long bytes(ElementType type, long out, long in, long rank) {
    return (out + rank) * rowLength(in, rank) * type.bytes();
  }

  /** Elements from one row to the next where {@code extra} lie right of {@code cols}. */
  static long rowLength(long cols, long extra) {
    return extra == 0 ? cols : (cols + extra + MULTIPLE - 1) / MULTIPLE * MULTIPLE;
  }

  public Tensor weight() {
    return all.rows(0, out).columns(0, in);
  }

  /** A of the update whose ranks begin at {@code from}. */
  public Tensor a(long from, long rank) {
    return all.rows(out + from, rank).columns(0, in);
  }

  /** B of that update, of the {@code rows} from {@code row} on. */
  public Tensor b(long row, long rows, long from, long rank) {
    return all.rows(row, rows).columns(in + from, rank);
  }
}
