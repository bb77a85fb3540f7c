package espalier.device;

import java.lang.foreign.MemorySegment;

/**
 * The machine's processor. A kernel call returns when its work is done; pages of memory that are
 * never touched take no room.
 */
final class CpuDevice extends Device {

  private final HostMemory memory = new HostMemory();

  /** The libraries must be loaded. */
  CpuDevice(ElementType type) {
    super(type);
  }

  @Override
  public MemorySegment stream() {
    return MemorySegment.NULL;
  }

  @Override
  public boolean isHost() {
    return true;
  }

  @Override
  public void holder(String name) {}

  /** The operating system decides when memory is used. */
  @Override
  public void require(String what, long bytes) {}

  @Override
  public MemorySegment stage(MemorySegment file) {
    return file;
  }

  @Override
  public boolean joinsTerms() {
    return false; // y is in cache where terms are added: see native/cpu/linear.cpp
  }

  @Override
  public MemorySegment allocate(long bytes) {
    return memory.allocate(bytes);
  }

  @Override
  public MemorySegment allocateStaging(long bytes) {
    return memory.allocate(bytes).fill((byte) 0);
  }

  @Override
  public void upload(MemorySegment staging, MemorySegment target) {
    MemorySegment.copy(staging, 0, target, 0, staging.byteSize());
  }

  @Override
  public void download(MemorySegment source, MemorySegment staging) {
    MemorySegment.copy(source, 0, staging, 0, staging.byteSize());
  }

  @Override
  public void copy(MemorySegment source, MemorySegment target) {
    MemorySegment.copy(source, 0, target, 0, source.byteSize());
  }

  @Override
  public void synchronize() {}

  /** A kernel call costs about as much as a launch of all would. */
  @Override
  public Replay replay(Runnable work) {
    return new Replay() {
      @Override
      public void run() {
        work.run();
      }

      @Override
      public void forget() {}

      @Override
      public String describe() {
        return "call by call";
      }
    };
  }

  @Override
  Clock clock() {
    return Clock.ofHost();
  }

  @Override
  public double seconds(Runnable work) {
    long start = System.nanoTime();
    work.run();
    return (System.nanoTime() - start) * 1e-9;
  }

  @Override
  public void forgetReplays() {}

  @Override
  public boolean isReplaying() {
    return false;
  }

  @Override
  public String describe() {
    return "the CPU";
  }

  @Override
  public long allocatedBytes() {
    return memory.allocatedBytes();
  }

  @Override
  public void close() {
    memory.close();
  }
}
