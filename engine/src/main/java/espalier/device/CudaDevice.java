package espalier.device;

import espalier.bindings.cublas.Cublas;
import espalier.bindings.cudart.CudaRuntime;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;

/**
 * An NVIDIA GPU: a stream, which kernels and copies go to in order, another for kernels that may
 * run beside them, and a cuBLAS handle for each. Calls return before their work is done; {@link
 * Transfer} and {@link #synchronize} wait.
 */
final class CudaDevice extends Device {

  /** Bytes of memory for cuBLAS, as NVIDIA advises for Hopper: then products need no allocation. */
  private static final long WORKSPACE = 32L << 20;

  /** Bytes of each of the two pinned buffers that files go through. */
  private static final long PIECE = 32L << 20;

  private static final String STAGED = "files on their way";

  private final CudaMemory memory = new CudaMemory();
  private final List<CudaGraph> graphs = new ArrayList<>();
  private final int ordinal;
  private final Lane main = new Lane();
  private final Lane side = new Lane();
  private MemorySegment forked = MemorySegment.NULL; // events: what comes before and after both
  private MemorySegment joined = MemorySegment.NULL;
  private final MemorySegment[] pieces = new MemorySegment[2];
  private final MemorySegment[] copied = new MemorySegment[2]; // events: a piece is free again
  private MemorySegment staged = MemorySegment.NULL;
  private boolean capturing;
  private boolean replaying;

  /**
   * The libraries must be loaded.
   *
   * @param ordinal which GPU, as CUDA counts those that it sees
   */
  CudaDevice(int ordinal, ElementType type) {
    super(type);
    this.ordinal = ordinal;
    try {
      create();
    } catch (RuntimeException e) {
      close();
      throw e;
    }
  }

  private void create() {
    CudaException.check("cudaSetDevice", CudaRuntime.cudaSetDevice(ordinal));
    main.create();
    side.create();
    forked = CudaClock.newEvent();
    joined = CudaClock.newEvent();
    main.take();
  }

  /** A stream, and a cuBLAS handle that works on it. */
  private final class Lane {
    private MemorySegment stream = MemorySegment.NULL;
    private MemorySegment cublas = MemorySegment.NULL;

    void create() {
      try (Arena arena = Arena.ofConfined()) {
        MemorySegment pointer = arena.allocate(ValueLayout.ADDRESS);
        CudaException.check(
            "cudaStreamCreateWithFlags",
            CudaRuntime.cudaStreamCreateWithFlags(pointer, CudaRuntime.cudaStreamNonBlocking()));
        stream = pointer.get(ValueLayout.ADDRESS, 0);
        checkCublas("cublasCreate", Cublas.cublasCreate_v2(pointer));
        cublas = pointer.get(ValueLayout.ADDRESS, 0);
      }
      checkCublas("cublasSetStream", Cublas.cublasSetStream_v2(cublas, stream));
      checkCublas(
          "cublasSetWorkspace",
          Cublas.cublasSetWorkspace_v2(cublas, memory.allocate("cuBLAS", WORKSPACE), WORKSPACE));
      // Sums of products that are cut along k stay float32, too: a bfloat16 result is rounded once.
      checkCublas(
          "cublasSetMathMode",
          Cublas.cublasSetMathMode(
              cublas,
              Cublas.CUBLAS_DEFAULT_MATH()
                  | Cublas.CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION()));
    }

    /** From now on kernels and products go to this stream. */
    void take() {
      kernels().setStream(stream);
      kernels().setGemm(Cublas.cublasGemmEx$address(), cublas);
    }

    /** What is queued here from now on waits for all that has been queued on the other. */
    void waitFor(Lane other, MemorySegment event) {
      CudaException.check("cudaEventRecord", CudaRuntime.cudaEventRecord(event, other.stream));
      CudaException.check("cudaStreamWaitEvent", CudaRuntime.cudaStreamWaitEvent(stream, event, 0));
    }

    void destroy() {
      if (!cublas.equals(MemorySegment.NULL)) {
        Cublas.cublasDestroy_v2(cublas);
      }
      if (!stream.equals(MemorySegment.NULL)) {
        CudaRuntime.cudaStreamDestroy(stream);
      }
    }
  }

  @Override
  public boolean worksBeside() {
    return true;
  }

  @Override
  public void fork() {
    if (!isProfiled()) {
      side.waitFor(main, forked);
    }
  }

  @Override
  public void beside(boolean now) {
    if (!isProfiled()) {
      (now ? side : main).take();
    }
  }

  @Override
  public void join() {
    if (!isProfiled()) {
      main.waitFor(side, joined);
    }
  }

  private static void checkCublas(String call, int status) {
    if (status != Cublas.CUBLAS_STATUS_SUCCESS()) {
      throw new CudaException(call + ": " + Cublas.cublasGetStatusString(status).getString(0));
    }
  }

  @Override
  public MemorySegment stream() {
    return main.stream;
  }

  @Override
  public boolean isHost() {
    return false;
  }

  void capturing(boolean now) {
    capturing = now;
  }

  void replaying(boolean now) {
    replaying = now;
  }

  @Override
  public void holder(String name) {
    memory.holder(name);
  }

  @Override
  public void require(String what, long bytes) {
    memory.require(what, bytes);
  }

  @Override
  public boolean joinsTerms() {
    return true; // y is written once, and by cuBLAS: see native/cuda/linear.cu
  }

  @Override
  public MemorySegment allocate(long bytes) {
    return memory.allocate(bytes);
  }

  @Override
  public MemorySegment allocateStaging(long bytes) {
    return memory.allocatePinned(bytes);
  }

  @Override
  public void upload(MemorySegment staging, MemorySegment target) {
    copyAsync(target, staging, staging.byteSize(), CudaRuntime.cudaMemcpyHostToDevice());
  }

  @Override
  public void download(MemorySegment source, MemorySegment staging) {
    copyAsync(staging, source, staging.byteSize(), CudaRuntime.cudaMemcpyDeviceToHost());
  }

  @Override
  public void copy(MemorySegment source, MemorySegment target) {
    Arguments.bytes("cudaMemcpyAsync", "target", target, source.byteSize(), 1);
    copyAsync(target, source, source.byteSize(), CudaRuntime.cudaMemcpyDeviceToDevice());
  }

  private void copyAsync(MemorySegment target, MemorySegment source, long bytes, int kind) {
    CudaException.check(
        "cudaMemcpyAsync", CudaRuntime.cudaMemcpyAsync(target, source, bytes, kind, main.stream));
  }

  /** Uses two pinned buffers in turn: while one is copied to the GPU, the host fills the other. */
  @Override
  public MemorySegment stage(MemorySegment file) {
    if (staged.byteSize() < file.byteSize()) {
      if (!staged.equals(MemorySegment.NULL)) {
        synchronize();
        memory.free(STAGED, staged);
        staged = MemorySegment.NULL;
      }
      staged = memory.allocate(STAGED, file.byteSize());
    }
    for (long at = 0, i = 0; at < file.byteSize(); at += PIECE, i++) {
      int half = (int) (i % 2);
      MemorySegment piece = piece(half);
      long bytes = Math.min(PIECE, file.byteSize() - at);
      CudaException.check("cudaEventSynchronize", CudaRuntime.cudaEventSynchronize(copied[half]));
      MemorySegment.copy(file, at, piece, 0, bytes);
      upload(piece.asSlice(0, bytes), staged.asSlice(at, bytes));
      CudaException.check(
          "cudaEventRecord", CudaRuntime.cudaEventRecord(copied[half], main.stream));
    }
    return staged.asSlice(0, file.byteSize());
  }

  private MemorySegment piece(int half) {
    if (pieces[half] == null) {
      pieces[half] = memory.allocatePinned(PIECE);
      copied[half] = CudaClock.newEvent();
    }
    return pieces[half];
  }

  @Override
  Clock clock() {
    return new CudaClock(main.stream);
  }

  @Override
  public double seconds(Runnable work) {
    try (Clock clock = clock()) {
      long start = clock.mark();
      work.run();
      long end = clock.mark();
      clock.settle();
      return clock.seconds(end) - clock.seconds(start);
    }
  }

  @Override
  public void synchronize() {
    CudaException.check("cudaStreamSynchronize", CudaRuntime.cudaStreamSynchronize(main.stream));
  }

  @Override
  public Replay replay(Runnable work) {
    CudaGraph graph = new CudaGraph(this, work);
    graphs.add(graph);
    return graph;
  }

  @Override
  public void forgetReplays() {
    graphs.forEach(CudaGraph::forget);
  }

  @Override
  public boolean isReplaying() {
    return replaying;
  }

  @Override
  public int takeOverflow() {
    return capturing ? 0 : super.takeOverflow();
  }

  @Override
  public String describe() {
    return "GPU %d (sm_%d%d, %d multiprocessors, %.1f GiB)"
        .formatted(
            ordinal,
            attribute(CudaRuntime.cudaDevAttrComputeCapabilityMajor()),
            attribute(CudaRuntime.cudaDevAttrComputeCapabilityMinor()),
            attribute(CudaRuntime.cudaDevAttrMultiProcessorCount()),
            memory.total() / (double) (1L << 30));
  }

  private int attribute(int which) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment value = arena.allocate(ValueLayout.JAVA_INT);
      CudaException.check(
          "cudaDeviceGetAttribute", CudaRuntime.cudaDeviceGetAttribute(value, which, ordinal));
      return value.get(ValueLayout.JAVA_INT, 0);
    }
  }

  @Override
  public long allocatedBytes() {
    return memory.allocatedBytes();
  }

  /** Statuses are not looked at: after a fault CUDA answers every call with it. */
  @Override
  public void close() {
    if (!main.stream.equals(MemorySegment.NULL)) {
      CudaRuntime.cudaStreamSynchronize(main.stream);
    }
    graphs.forEach(CudaGraph::close);
    for (MemorySegment event : new MemorySegment[] {copied[0], copied[1], forked, joined}) {
      if (event != null && !event.equals(MemorySegment.NULL)) {
        CudaRuntime.cudaEventDestroy(event);
      }
    }
    side.destroy();
    main.destroy();
    memory.close();
  }
}
