package espalier.distributed;

import espalier.device.Device;
import java.lang.foreign.MemorySegment;

/** A process of its own: it has nobody to talk to. */
record SingleRank(Launch launch) implements Ranks {

  @Override
  public void detach() {}

  @Override
  public Ranks on(Device device) {
    return this;
  }

  @Override
  public void sum(MemorySegment values, long n) {}

  @Override
  public void largest(MemorySegment values, long n) {}

  @Override
  public void exchange(MemorySegment mine, MemorySegment theirs, long n, long slice) {
    throw new IllegalStateException("there is no other rank");
  }

  @Override
  public void collect(MemorySegment whole, long n, long slice) {}

  @Override
  public byte[] gather(byte[] mine) {
    return mine;
  }

  @Override
  public byte[] broadcast(byte[] data) {
    return data;
  }

  @Override
  public void work(Runnable piece) {
    piece.run();
  }

  @Override
  public void checkpoint(String file) {}

  @Override
  public void fail(String message, int exitCode) {}

  @Override
  public void close() {}
}
