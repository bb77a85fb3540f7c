package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;

import espalier.device.ElementType;
import espalier.device.Transfer;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

class GemmTest extends KernelTest {

  @ParameterizedTest
  @CsvSource({
    "1, 1, 1",
    "3, 5, 7",
    "17, 33, 9",
    "64, 48, 16",
    "130, 17, 129",
    "16, 576, 100",
    "300, 16, 70",
    "257, 513, 65",
    "80, 1300, 31",
    "49, 135, 1300",
    "50, 24, 1024",
    "50, 260, 1024",
    "1024, 20, 30",
    "48, 49, 1300",
    "200, 48, 97"
  })
  void equalsThePlainLoop(int m, int n, int k) {
    for (int flags = 0; flags < 4; flags++) {
      compare((flags & 1) != 0, (flags & 2) != 0, m, n, k, 1, 0, 0);
      compare((flags & 1) != 0, (flags & 2) != 0, m, n, k, 0.7f, 1, 3);
      compare((flags & 1) != 0, (flags & 2) != 0, m, n, k, -1.5f, 0.25f, 1);
    }
  }

  private void compare(
      boolean transA, boolean transB, int m, int n, int k, float alpha, float beta, int extra) {
    int lda = (transA ? m : k) + extra;
    int ldb = (transB ? k : n) + extra;
    int ldc = n + extra;
    float[] a = random((transA ? k : m) * lda);
    float[] b = random((transB ? n : k) * ldb);
    float[] before = random(m * ldc);
    MemorySegment c = beta == 0 ? buffers.floats(m * ldc) : buffers.changing(before);
    kernels.gemm(
        transA, transB, m, n, k, alpha, buffers.input(a), lda, buffers.input(b), ldb, beta, c, ldc);

    double[] expected = new double[m * ldc];
    double[] bound = new double[m * ldc];
    for (int i = 0; i < m; i++) {
      for (int j = 0; j < ldc; j++) {
        int at = i * ldc + j;
        if (j >= n) { // beyond the columns nothing is written
          expected[at] = beta == 0 ? 0 : before[at];
          continue;
        }
        double sum = 0;
        double sumOfSizes = 0;
        for (int l = 0; l < k; l++) {
          double product =
              (double) (transA ? a[l * lda + i] : a[i * lda + l])
                  * (transB ? b[j * ldb + l] : b[l * ldb + j]);
          sum += product;
          sumOfSizes += Math.abs(product);
        }
        double kept = beta == 0 ? 0 : (double) beta * before[at];
        expected[at] = alpha * sum + kept;
        // Roundings of a sum grow as a random walk; two more for alpha and beta.
        bound[at] = EPS * (Math.sqrt(k) + 2) * (Math.abs(alpha) * sumOfSizes + Math.abs(kept));
      }
    }
    float[] actual = TestBuffers.toFloats(c);
    if (beta == 0) {
      for (int i = 0; i < m; i++) {
        for (int j = n; j < ldc; j++) {
          assertEquals(-1, Float.floatToRawIntBits(actual[i * ldc + j]), "written between rows");
          actual[i * ldc + j] = 0;
        }
      }
    }
    String what = (transA ? "T" : "N") + (transB ? "T" : "N") + " " + m + " " + n + " " + k;
    assertNear(what, expected, actual, bound);
  }

  @ParameterizedTest
  @CsvSource({
    "false, true, 512, 960, 576",
    "false, true, 80, 3000, 576",
    "false, false, 512, 576, 960",
    "false, false, 90, 300, 2048",
    "true, false, 16, 576, 512",
    "true, false, 576, 16, 512",
    "true, false, 900, 40, 1300",
    "false, true, 512, 16, 576",
    "false, false, 80, 64, 5000"
  })
  void isTheSameForAnyThreads(boolean transA, boolean transB, int m, int n, int k) {
    MemorySegment a = buffers.input(random(m * k));
    MemorySegment b = buffers.input(random(n * k));
    MemorySegment c = buffers.floats(m * n);
    assertSameForAnyThreads(
        () -> {
          Transfer.fill(c, (byte) -1);
          kernels.gemm(transA, transB, m, n, k, 1, a, transA ? m : k, b, transB ? k : n, 0, c, n);
          return TestBuffers.toFloats(c);
        });
  }

  /**
   * Threads of the kernels are shared by all that call them; who finds them taken goes on alone.
   */
  @Test
  void callersDoNotDisturbOneAnother() throws Exception {
    onTheCpuOnly("a GPU's kernels are called by one thread");
    int callers = 3, size = 160, products = 60;
    kernels.setThreads(4);
    try (Arena shared = Arena.ofShared();
        ExecutorService executor = Executors.newFixedThreadPool(callers)) {
      MemorySegment a = shared.allocateFrom(ValueLayout.JAVA_FLOAT, random(size * size));
      MemorySegment b = shared.allocateFrom(ValueLayout.JAVA_FLOAT, random(size * size));
      List<Future<float[][]>> results = new ArrayList<>();
      for (int caller = 0; caller < callers; caller++) {
        MemorySegment c = shared.allocate(ValueLayout.JAVA_FLOAT, size * size);
        results.add(
            executor.submit(
                () -> {
                  float[][] seen = new float[products][];
                  for (int i = 0; i < products; i++) {
                    Transfer.fill(c, (byte) -1);
                    kernels.gemm(false, false, size, size, size, 1, a, size, b, size, 0, c, size);
                    seen[i] = c.toArray(ValueLayout.JAVA_FLOAT);
                  }
                  return seen;
                }));
      }
      float[] first = results.getFirst().get()[0];
      for (Future<float[][]> result : results) {
        for (float[] c : result.get()) assertArrayEquals(first, c);
      }
    } finally {
      kernels.setThreads(0);
    }
  }

  /** So a product of some rows, or of some latents, is that part of the whole one. */
  @ParameterizedTest
  @CsvSource({"false, false", "false, true", "true, false", "true, true"})
  void anElementIsTheSameWhereverItLies(boolean transA, boolean transB) {
    onTheCpuOnly("cuBLAS promises no such thing");
    int m = 131;
    int n = 275;
    int k = 1409;
    MemorySegment a = buffers.input(random(m * k));
    MemorySegment b = buffers.input(random(n * k));
    int lda = transA ? m : k;
    int ldb = transB ? k : n;
    float alpha = 0.7f;
    float beta = 0.3f;
    float[] before = random(m * n);
    MemorySegment whole = buffers.changing(before);
    kernels.gemm(transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, whole, n);
    float[] expected = TestBuffers.toFloats(whole);
    int row = 7;
    int column = 21;
    int rows = 90;
    int columns = 33;
    float[] ofPart = new float[rows * columns];
    for (int i = 0; i < rows; i++) {
      System.arraycopy(before, (row + i) * n + column, ofPart, i * columns, columns);
    }
    MemorySegment part = buffers.changing(ofPart);
    kernels.gemm(
        transA,
        transB,
        rows,
        columns,
        k,
        alpha,
        a.asSlice(4L * (transA ? row : row * k)),
        lda,
        b.asSlice(4L * (transB ? column * k : column)),
        ldb,
        beta,
        part,
        columns);
    float[] actual = TestBuffers.toFloats(part);
    for (int i = 0; i < rows; i++) {
      for (int j = 0; j < columns; j++) {
        assertEquals(expected[(row + i) * n + column + j], actual[i * columns + j], i + ", " + j);
      }
    }
  }

  @ParameterizedTest
  @EnumSource(ElementType.class)
  void readsNothingBehindItsOperands(ElementType type) {
    onTheCpuOnly("the memory of a GPU has no such edge");
    for (int m : new int[] {1, 7, 12, 13, 15, 25, 49, 55, 61, 62, 63}) {
      for (int n : new int[] {1, 17, 61}) {
        for (int k : new int[] {40, 41}) {
          for (int flags = 0; flags < 4; flags++) {
            readsNothingBehind(type, (flags & 1) != 0, (flags & 2) != 0, m, n, k);
          }
        }
      }
    }
  }

  private void readsNothingBehind(
      ElementType type, boolean transA, boolean transB, int m, int n, int k) {
    MemorySegment a = buffers.input(type, random(m * k));
    MemorySegment b = buffers.input(type, random(n * k));
    MemorySegment c = buffers.output(type, m * n);
    int lda = transA ? m : k;
    int ldb = transB ? k : n;
    kernels(type).gemm(transA, transB, m, n, k, 1, a, lda, b, ldb, 0, c, n);
    try (EdgeOfMemory edge = new EdgeOfMemory()) {
      MemorySegment atEdge = edge.allocate(c.byteSize());
      kernels(type)
          .gemm(transA, transB, m, n, k, 1, edge.copy(a), lda, edge.copy(b), ldb, 0, atEdge, n);
      assertEquals(-1, c.mismatch(atEdge));
    }
  }

  /** Rows that lie a power of two apart are copied so many at a time: 64 MB of them. */
  @Test
  void isTheSameFromMoreScatteredRowsThanAreCopiedAtOnce() {
    onTheCpuOnly("a GPU's rows are read in place");
    int m = 300;
    int n = 130;
    int k = 1 << 16;
    int apart = k + 16;
    try (Arena arena = Arena.ofShared()) {
      MemorySegment scattered = arena.allocate(4L * m * k, 64);
      MemorySegment spread = arena.allocate(4L * m * apart, 64);
      MemorySegment b = arena.allocate(4L * n * k, 64);
      kernels.fillUniform(scattered, k, 1, 5, m, k);
      kernels.fillUniform(spread, apart, 1, 5, m, k);
      kernels.fillUniform(b, k, 1, 6, n, k);
      MemorySegment expected = buffers.floats(m * n);
      MemorySegment c = buffers.floats(m * n);
      kernels.gemm(false, true, m, n, k, 1, spread, apart, b, k, 0, expected, n);
      kernels.gemm(false, true, m, n, k, 1, scattered, k, b, k, 0, c, n);
      assertArrayEquals(TestBuffers.toFloats(expected), TestBuffers.toFloats(c));
    }
  }

  @ParameterizedTest
  @CsvSource({"0, 5, 3", "5, 0, 3"})
  void nothingToWriteWritesNothing(int m, int n, int k) {
    kernels.gemm(
        false,
        false,
        m,
        n,
        k,
        1,
        buffers.floats(m * k),
        k,
        buffers.floats(k * n),
        5,
        0,
        buffers.floats(m * n),
        5);
  }

  @ParameterizedTest
  @CsvSource({"0", "0.5"})
  void aSumOverNothingIsZero(float beta) {
    MemorySegment c = beta == 0 ? buffers.floats(6) : buffers.changing(2, 2, 2, 2, 2, 2);
    kernels.gemm(false, false, 2, 3, 0, 1, buffers.floats(0), 1, buffers.floats(0), 3, beta, c, 3);
    for (float value : TestBuffers.toFloats(c)) {
      assertEquals(2 * beta, value);
    }
  }
}
