package espalier.distributed;

import espalier.device.Device;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.DoubleBuffer;
import java.util.Optional;
import java.util.function.Consumer;

/**
 * The processes of a job, and what they exchange. All ranks call the collective methods in the same
 * order.
 *
 * <p>Sums over ranks are added in an order of our own ({@link #exchange}, {@link #collect}). MPI
 * and NCCL choose an order by size and topology, so the bits of {@link #sum} depend on these.
 */
public sealed interface Ranks extends AutoCloseable
    permits SingleRank, MpiRanks, TorchRanks, NcclRanks {

  /**
   * Brings the processes of a job together; one that is alone needs nothing for it.
   *
   * @throws LaunchException if they cannot come together, naming what is missing
   */
  static Ranks join(Launch launch) {
    if (launch.isAlone()) {
      return new SingleRank(launch);
    }
    if (launch.starter() == Launch.Starter.TORCHRUN) {
      return TorchRanks.join(launch, System.getenv());
    }
    Ranks ranks = MpiRanks.join(launch);
    Processors.share(ranks);
    return ranks;
  }

  /** This process and no other. */
  static Ranks alone() {
    return new SingleRank(Launch.ALONE);
  }

  Launch launch();

  /**
   * The same ranks, connected through their devices: by MPI for host memory, by NCCL for GPUs. The
   * result must be {@link #detach}ed before the device is closed; it is not closed itself, only
   * these ranks are.
   */
  Ranks on(Device device);

  /** Waits for all ranks and lets go of the device. */
  void detach();

  default int rank() {
    return launch().rank();
  }

  default int size() {
    return launch().size();
  }

  /** Whether this rank is the one that writes files and talks to the user. */
  default boolean isFirst() {
    return rank() == 0;
  }

  /**
   * Replaces floats in device memory by their sums over all ranks, in whatever order is fastest.
   *
   * @param n less than 2^31
   */
  void sum(MemorySegment values, long n);

  /**
   * Replaces int32 values in device memory by the largest of all ranks.
   *
   * @param n less than 2^31
   */
  void largest(MemorySegment values, long n);

  /**
   * Gives each rank its slice of everybody's array: slice r, of {@code slice} floats, is rank r's;
   * the last ones may be shorter or empty.
   *
   * @param mine {@code [n]}, device memory
   * @param theirs {@code [size, slice]}, device memory: a rank's slice of each rank's array
   * @param n less than 2^31
   */
  void exchange(MemorySegment mine, MemorySegment theirs, long n, long slice);

  /**
   * Completes an array of which each rank has made its own slice.
   *
   * @param whole {@code [n]}, device memory
   */
  void collect(MemorySegment whole, long n, long slice);

  /**
   * Gathers arrays of equal length: all ranks receive those of all, one after another in the order
   * of ranks.
   */
  byte[] gather(byte[] mine);

  /** Likewise for numbers. */
  default double[] gather(double... mine) {
    ByteBuffer bytes = ByteBuffer.allocate(mine.length * Double.BYTES);
    bytes.asDoubleBuffer().put(mine);
    DoubleBuffer all = ByteBuffer.wrap(gather(bytes.array())).asDoubleBuffer();
    double[] numbers = new double[all.remaining()];
    all.get(numbers);
    return numbers;
  }

  /** All ranks receive what rank 0 gives; what the others give is ignored. */
  byte[] broadcast(byte[] data);

  /**
   * Memory that the ranks of a machine share while these ranks are open. All ranks ask for the same
   * size. Empty where each needs its own: on GPUs, and where a machine has only one rank.
   *
   * @param warn told why ranks of a machine have nothing in common though they could
   */
  default Optional<NodeMemory> share(long bytes, Consumer<String> warn) {
    return Optional.empty();
  }

  /**
   * Does one of many similar pieces of work, such as the micro-batches of a step. If one takes very
   * much longer than any before, this rank is considered to hang, and the job ends.
   */
  void work(Runnable piece);

  /** Tells all ranks that rank 0 has written a checkpoint; the message names it if the job dies. */
  void checkpoint(String file);

  /**
   * Ends the job on all ranks: rank 0 says why, in one line. Does not return where there are other
   * ranks.
   *
   * @param exitCode of the job
   */
  void fail(String message, int exitCode);

  /** Waits for all ranks to be done. */
  @Override
  void close();
}
