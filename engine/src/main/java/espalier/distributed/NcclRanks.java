package espalier.distributed;

import static espalier.bindings.nccl.Nccl.*;

import espalier.bindings.nccl.ncclUniqueId;
import espalier.device.Device;
import espalier.device.Transfer;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.util.Arrays;

/**
 * Ranks with a GPU each: what they tell each other goes through NCCL, on the device's stream. Who
 * started them still ends them.
 */
final class NcclRanks implements Ranks {

  // Their declarations leave the arguments open. Both look NCCL's functions up, so that they are
  // made once it is loaded,
  // not with the class.
  private final ncclGroupStart groupStart = ncclGroupStart.makeInvoker();
  private final ncclGroupEnd groupEnd = ncclGroupEnd.makeInvoker();

  private final Ranks started;
  private final Device device;
  private final MemorySegment communicator;
  private MemorySegment own = MemorySegment.NULL; // of gather, device memory that grows
  private MemorySegment everybodys = MemorySegment.NULL;

  /**
   * @param id of the job, the same for all ranks: {@link #newId} of rank 0
   */
  private NcclRanks(Ranks started, Device device, byte[] id) {
    this.started = started;
    this.device = device;
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment pointer = arena.allocate(ValueLayout.ADDRESS);
      MemorySegment unique = ncclUniqueId.allocate(arena);
      unique.copyFrom(MemorySegment.ofArray(id));
      int status = ncclCommInitRank(pointer, started.size(), unique, started.rank());
      if (status != ncclSuccess()) {
        throw new LaunchException(
            "NCCL: ranks cannot connect: " + ncclGetErrorString(status).getString(0));
      }
      communicator = pointer.get(ValueLayout.ADDRESS, 0);
    }
  }

  static NcclRanks on(Device device, Ranks started) {
    byte[] id =
        switch (started) {
          case TorchRanks torch -> torch.ncclId();
          default -> {
            TorchRanks.loadNccl(started.launch());
            yield started.broadcast(started.isFirst() ? newId() : new byte[0]);
          }
        };
    return new NcclRanks(started, device, id);
  }

  static byte[] newId() {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment id = ncclUniqueId.allocate(arena);
      int status = ncclGetUniqueId(id);
      if (status != ncclSuccess()) {
        throw new LaunchException("NCCL: " + ncclGetErrorString(status).getString(0));
      }
      return id.toArray(ValueLayout.JAVA_BYTE);
    }
  }

  @Override
  public Launch launch() {
    return started.launch();
  }

  @Override
  public Ranks on(Device other) {
    throw new IllegalStateException("these ranks have a device");
  }

  @Override
  public void sum(MemorySegment values, long n) {
    reduce("sum", values, n, ncclFloat32(), ncclSum());
  }

  @Override
  public void largest(MemorySegment values, long n) {
    reduce("largest", values, n, ncclInt32(), ncclMax());
  }

  private void reduce(String what, MemorySegment values, long n, int type, int operation) {
    check(what, ncclAllReduce(values, values, n, type, operation, communicator, device.stream()));
  }

  @Override
  public void exchange(MemorySegment mine, MemorySegment theirs, long n, long slice) {
    long own = length(n, slice, rank());
    grouped(
        "exchange",
        () -> {
          for (int r = 0; r < size(); r++) {
            long their = length(n, slice, r);
            if (their > 0) {
              MemorySegment part = floats(mine, r * slice);
              check(
                  "exchange",
                  ncclSend(part, their, ncclFloat32(), r, communicator, device.stream()));
            }
            if (own > 0) {
              MemorySegment part = floats(theirs, r * slice);
              check(
                  "exchange", ncclRecv(part, own, ncclFloat32(), r, communicator, device.stream()));
            }
          }
        });
  }

  @Override
  public void collect(MemorySegment whole, long n, long slice) {
    if (n == slice * size()) {
      MemorySegment own = floats(whole, rank() * slice); // in place
      check(
          "collect",
          ncclAllGather(own, whole, slice, ncclFloat32(), communicator, device.stream()));
      return;
    }
    grouped(
        "collect",
        () -> {
          for (int r = 0; r < size(); r++) {
            long length = length(n, slice, r);
            if (length > 0) {
              MemorySegment part = floats(whole, r * slice);
              check(
                  "collect",
                  ncclBroadcast(
                      part, part, length, ncclFloat32(), r, communicator, device.stream()));
            }
          }
        });
  }

  /** A group that was begun ends, whatever is refused within. */
  private void grouped(String what, Runnable calls) {
    check(what, groupStart.apply());
    int ended;
    try {
      calls.run();
    } finally {
      ended = groupEnd.apply();
    }
    check(what, ended);
  }

  private static long length(long n, long slice, int rank) {
    return Math.clamp(n - rank * slice, 0, slice);
  }

  private static MemorySegment floats(MemorySegment array, long at) {
    return array.asSlice(at * Float.BYTES);
  }

  @Override
  public byte[] gather(byte[] mine) {
    int bytes = mine.length;
    if (bytes == 0) {
      gather(new byte[1]);
      return mine;
    }
    if (own.byteSize() < bytes) {
      own = device.allocate(bytes);
      everybodys = device.allocate((long) bytes * size());
    }
    MemorySegment all = everybodys.asSlice(0, (long) bytes * size());
    try (Arena arena = Arena.ofConfined()) {
      Transfer.copy(arena.allocateFrom(ValueLayout.JAVA_BYTE, mine), own);
      check("gather", ncclAllGather(own, all, bytes, ncclInt8(), communicator, device.stream()));
      device.synchronize();
      return Transfer.bytes(all);
    }
  }

  @Override
  public byte[] broadcast(byte[] data) {
    byte[] lengths = gather(ByteBuffer.allocate(Integer.BYTES).putInt(data.length).array());
    int length = ByteBuffer.wrap(lengths).getInt();
    byte[] all = gather(Arrays.copyOf(data, Math.max(1, length)));
    return Arrays.copyOf(all, length);
  }

  @Override
  public void work(Runnable piece) {
    started.work(piece);
  }

  @Override
  public void checkpoint(String file) {
    started.checkpoint(file);
  }

  @Override
  public void fail(String message, int exitCode) {
    started.fail(message, exitCode);
  }

  /** NCCL waits until no graph has messages of the communicator: whoever made them ends them. */
  @Override
  public void detach() {
    gather(new byte[1]);
    device.forgetReplays();
    check("leave", ncclCommDestroy(communicator));
  }

  @Override
  public void close() {
    throw new IllegalStateException("who started the ranks is closed");
  }

  private void check(String what, int status) {
    if (status != ncclSuccess()) {
      throw new LaunchException(
          "NCCL: %s: %s (%s)"
              .formatted(
                  what,
                  ncclGetErrorString(status).getString(0),
                  ncclGetLastError(communicator).getString(0)));
    }
  }
}
