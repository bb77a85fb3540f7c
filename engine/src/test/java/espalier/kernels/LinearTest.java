package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import espalier.bindings.NativeException;
import espalier.device.ElementType;
import espalier.device.Kernels;
import espalier.device.LinearWay;
import espalier.device.LowRankTerms;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class LinearTest extends KernelTest {

  /** Columns {@code [from, from + n)} get scale u op(v); u {@code [m, r]}. */
  private record Term(int from, int n, int r, float scale, float[] u, float[] v) {}

  private record Map(
      boolean transposed,
      int m,
      int n,
      int k,
      float beta,
      float[] x,
      float[] w,
      float[] before,
      List<Term> terms) {

    private double right(float[] w, int inner, int column, int depth, int width) {
      return transposed ? w[column * depth + inner] : w[inner * width + column];
    }

    /** With products stored one after another. */
    double[] result(Storage storage) {
      double[] y = new double[m * n];
      for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
          double sum = beta == 0 ? 0 : (double) beta * before[i * n + j];
          for (int l = 0; l < k; l++) sum += x[i * k + l] * right(w, l, j, k, n);
          y[i * n + j] = storage.keep(sum);
        }
        for (Term t : terms) {
          for (int j = 0; j < t.n; j++) {
            double sum = 0;
            for (int l = 0; l < t.r; l++) {
              sum += t.u[i * t.r + l] * right(t.v, l, j, t.r, t.n);
            }
            int at = i * n + t.from + j;
            y[at] = storage.keep(y[at] + t.scale * sum);
          }
        }
      }
      return y;
    }

    Map withScalesOfOne() {
      return new Map(
          transposed,
          m,
          n,
          k,
          beta,
          x,
          w,
          before,
          terms.stream().map(t -> new Term(t.from, t.n, t.r, 1, t.u, t.v)).toList());
    }

    /** The sum of the sizes of what is added up. */
    double[] sizes() {
      return new Map(
              transposed,
              m,
              n,
              k,
              Math.abs(beta),
              sizes(x),
              sizes(w),
              sizes(before),
              terms.stream()
                  .map(t -> new Term(t.from, t.n, t.r, Math.abs(t.scale), sizes(t.u), sizes(t.v)))
                  .toList())
          .result(Storage.EXACT);
    }

    private static float[] sizes(float[] values) {
      float[] out = new float[values.length];
      for (int i = 0; i < out.length; i++) out[i] = Math.abs(values[i]);
      return out;
    }
  }

  /**
   * @param ranges of the terms: from, n, rank of each
   */
  private Map map(
      ElementType type, boolean transposed, int m, int n, int k, float beta, int... ranges) {
    List<Term> terms = new ArrayList<>();
    for (int i = 0; i < ranges.length; i += 3) {
      int width = ranges[i + 1];
      int rank = ranges[i + 2];
      float scale = i % 2 == 0 ? 0.5f : -1.25f;
      float[] u = random(type, m * rank, 1);
      terms.add(new Term(ranges[i], width, rank, scale, u, random(type, width * rank, 1)));
    }
    float[] x = random(type, m * k, 1);
    float[] w = random(type, n * k, 1);
    return new Map(transposed, m, n, k, beta, x, w, random(type, m * n, 1), terms);
  }

  private MemorySegment run(ElementType type, LinearWay way, Map map, int extra) {
    boolean transposed = map.transposed;
    LowRankTerms terms = new LowRankTerms(map.terms.size());
    for (int i = 0; i < map.terms.size(); i++) {
      Term t = map.terms.get(i);
      int ldU = t.r + extra;
      int width = transposed ? t.r : t.n;
      MemorySegment u = buffers.input(type, widen(t.u, t.r, ldU));
      MemorySegment v = buffers.input(type, widen(t.v, width, width + extra));
      terms.set(i, u, ldU, v, width + extra, t.from, t.n, t.r, t.scale);
    }
    int ldx = map.k + extra;
    int width = transposed ? map.k : map.n;
    int ldy = map.n + extra;
    MemorySegment y =
        map.beta == 0
            ? buffers.output(type, map.m * ldy)
            : buffers.changing(type, widen(map.before, map.n, ldy));
    kernels(type)
        .linear(
            transposed,
            map.m,
            map.n,
            map.k,
            buffers.input(type, widen(map.x, map.k, ldx)),
            ldx,
            buffers.input(type, widen(map.w, width, width + extra)),
            width + extra,
            terms,
            map.beta,
            y,
            ldy,
            way);
    return narrow(type, y, map.n, ldy);
  }

  /** Skips where dense products are the CPU's, though the kernels are CUDA's on the emulator. */
  private void assumeProducts(ElementType type) {
    try {
      kernels(type).gemm(false, false, 0, 1, 1, 1, NULL, 1, buffers.floats(1), 1, 0, NULL, 1);
    } catch (NativeException e) {
      assertEquals("cpu", System.getProperty("espalier.device", "cpu"), e.getMessage());
      assumeTrue(false, "no products in this type: " + e.getMessage());
    }
  }

  private void holds(ElementType type, LinearWay way, Map map, int extra) {
    double[] sizes = map.sizes();
    int inner = map.k + map.terms.stream().mapToInt(Term::r).sum();
    assertActivations(
        way + " " + map.m + " " + map.n + " " + map.k,
        type,
        map::result,
        run(type, way, map, extra),
        i -> EPS * (Math.sqrt(inner) + 3) * sizes[i],
        FORWARD);
  }

  @ParameterizedTest
  @CsvSource({"F32, BY_SHAPE", "F32, SEPARATE", "BF16, BY_SHAPE", "BF16, SEPARATE"})
  void equalsThePlainLoop(ElementType type, LinearWay way) {
    assumeProducts(type);
    for (boolean transposed : new boolean[] {true, false}) {
      holds(type, way, map(type, transposed, 5, 7, 9, 0), 0);
      holds(type, way, map(type, transposed, 33, 20, 17, 1, 3, 9, 4), 3);
      holds(type, way, map(type, transposed, 30, 96, 48, 0, 0, 32, 8, 32, 32, 8, 64, 32, 16), 0);
      holds(type, way, map(type, transposed, 1, 40, 16, 0.5f, 8, 16, 64), 8);
      // Sums over several pieces of k, terms of high and low ranks, within panels and not.
      holds(
          type, way, map(type, transposed, 50, 224, 1400, 1, 0, 96, 16, 96, 64, 8, 160, 64, 70), 0);
      holds(type, way, map(type, transposed, 130, 200, 50, 0.5f, 32, 100, 8, 160, 40, 24), 4);
      // Rows that fall into the same places of a cache.
      holds(type, way, map(type, transposed, 40, 160, 2048, 1, 0, 160, 8), 0);
    }
  }

  /** Sizes around the tiles', terms that end within tiles, ranks below and above a step of 32. */
  @ParameterizedTest
  @EnumSource(
      value = LinearWay.class,
      names = {"FUSED_NARROW", "FUSED_WIDE"})
  void fusedEqualsThePlainLoop(LinearWay way) {
    onAGpuOnly("fused on tensor cores");
    ElementType type = ElementType.BF16;
    buffers.alignTo16(true);
    for (boolean transposed : new boolean[] {true, false}) {
      holds(type, way, map(type, transposed, 7, 8, 8, 0), 0);
      holds(type, way, map(type, transposed, 130, 136, 40, 0, 0, 136, 8), 0);
      holds(type, way, map(type, transposed, 65, 264, 168, 1, 0, 72, 16, 136, 128, 40), 8);
      holds(
          type,
          way,
          map(type, transposed, 129, 272, 72, -0.5f, 8, 8, 8, 16, 120, 64, 200, 72, 24),
          0);
      holds(type, way, map(type, transposed, 20, 520, 0, 1, 0, 256, 8, 256, 264, 32), 16);
    }
  }

  /** x with the terms' u, w with their v, each in one matrix; and the terms there. */
  private record SideBySide(
      MemorySegment x, int ldx, MemorySegment w, int ldw, LowRankTerms terms) {}

  /** What a term has no columns of is zero; what lies right of all of them is never read. */
  private SideBySide sideBySide(ElementType type, Map map, int extra) {
    boolean transposed = map.transposed;
    int inner = map.k + map.terms.stream().mapToInt(Term::r).sum();
    int ldx = inner + extra;
    int ldw = (transposed ? inner : map.n) + extra;
    float[] x = new float[map.m * ldx];
    float[] w = new float[(transposed ? map.n : inner) * ldw];
    Arrays.fill(x, Float.NaN);
    Arrays.fill(w, Float.NaN);
    for (int i = 0; i < map.m; i++) {
      System.arraycopy(map.x, i * map.k, x, i * ldx, map.k);
    }
    for (int j = 0; j < map.n; j++) {
      for (int l = 0; l < inner; l++) {
        w[transposed ? j * ldw + l : l * ldw + j] =
            l < map.k ? (float) map.right(map.w, l, j, map.k, map.n) : 0;
      }
    }
    int[] first = new int[map.terms.size()];
    int at = map.k;
    for (int p = 0; p < first.length; p++) {
      Term t = map.terms.get(p);
      first[p] = at;
      for (int i = 0; i < map.m; i++) System.arraycopy(t.u, i * t.r, x, i * ldx + at, t.r);
      for (int j = 0; j < t.n; j++) {
        for (int l = 0; l < t.r; l++) {
          int row = t.from + j;
          w[transposed ? row * ldw + at + l : (at + l) * ldw + row] =
              (float) map.right(t.v, l, j, t.r, t.n);
        }
      }
      at += t.r;
    }
    SideBySide all =
        new SideBySide(
            buffers.input(type, x),
            ldx,
            buffers.input(type, w),
            ldw,
            new LowRankTerms(first.length));
    for (int p = 0; p < first.length; p++) {
      Term t = map.terms.get(p);
      long v = transposed ? (long) t.from * ldw + first[p] : (long) first[p] * ldw + t.from;
      all.terms.set(
          p,
          all.x.asSlice((long) first[p] * type.bytes()),
          ldx,
          all.w.asSlice(v * type.bytes()),
          ldw,
          t.from,
          t.n,
          t.r,
          t.scale);
    }
    return all;
  }

  private MemorySegment run(ElementType type, LinearWay way, Map map, SideBySide at, int ldy) {
    MemorySegment y =
        map.beta == 0
            ? buffers.output(type, map.m * ldy)
            : buffers.changing(type, widen(map.before, map.n, ldy));
    kernels(type)
        .linear(
            map.transposed,
            map.m,
            map.n,
            map.k,
            at.x,
            at.ldx,
            at.w,
            at.ldw,
            at.terms,
            map.beta,
            y,
            ldy,
            way);
    return narrow(type, y, map.n, ldy);
  }

  private void holdsSideBySide(ElementType type, LinearWay way, Map scaled, int extra) {
    Map map = scaled.withScalesOfOne();
    double[] sizes = map.sizes();
    int inner = map.k + map.terms.stream().mapToInt(Term::r).sum();
    assertActivations(
        way + " side by side " + map.m + " " + map.n + " " + map.k,
        type,
        map::result,
        run(type, way, map, sideBySide(type, map, extra), map.n + extra),
        i -> EPS * (Math.sqrt(inner) + 3) * sizes[i],
        FORWARD);
  }

  /** Terms that are more columns of one product, alone and several, some columns without any. */
  @ParameterizedTest
  @CsvSource({
    "F32, EXTRA_COLUMNS", "F32, SEPARATE", "F32, BY_SHAPE",
    "BF16, EXTRA_COLUMNS", "BF16, SEPARATE", "BF16, BY_SHAPE"
  })
  void termsMayLieBesideTheMap(ElementType type, LinearWay way) {
    assumeProducts(type);
    for (boolean transposed : new boolean[] {true, false}) {
      holdsSideBySide(type, way, map(type, transposed, 33, 20, 17, 0, 0, 20, 4), 0);
      holdsSideBySide(type, way, map(type, transposed, 33, 20, 17, 1, 3, 9, 4), 3);
      holdsSideBySide(
          type, way, map(type, transposed, 30, 96, 48, 0, 0, 32, 8, 32, 32, 8, 64, 32, 16), 8);
      holdsSideBySide(
          type, way, map(type, transposed, 9, 96, 40, -0.5f, 56, 8, 16, 0, 32, 8, 72, 16, 24), 0);
      holdsSideBySide(type, way, map(type, transposed, 1, 40, 16, 0.5f, 8, 16, 64), 8);
    }
  }

  @ParameterizedTest
  @EnumSource(
      value = LinearWay.class,
      names = {"FUSED_NARROW", "FUSED_WIDE"})
  void fusedTermsMayLieBesideTheMap(LinearWay way) {
    onAGpuOnly("fused on tensor cores");
    ElementType type = ElementType.BF16;
    buffers.alignTo16(true);
    for (boolean transposed : new boolean[] {true, false}) {
      Map map = map(type, transposed, 65, 264, 168, 1, 0, 72, 16, 136, 128, 40);
      holdsSideBySide(type, way, map, 8);
    }
  }

  /** A product with extra columns is that product, bit for bit. */
  @Test
  void extraColumnsAreOneProduct() {
    Map map = map(ElementType.F32, true, 70, 96, 130, 0, 0, 40, 8, 40, 56, 16).withScalesOfOne();
    SideBySide at = sideBySide(ElementType.F32, map, 0);
    MemorySegment y = buffers.floats(70 * 96);
    kernels.gemm(false, true, 70, 96, 154, 1, at.x, at.ldx, at.w, at.ldw, 0, y, 96);
    MemorySegment one = run(ElementType.F32, LinearWay.EXTRA_COLUMNS, map, at, 96);
    assertSameBits(TestBuffers.toFloats(y), TestBuffers.toFloats(one), "y");
  }

  /** Whatever the rule says is what it does, to the bit. */
  @ParameterizedTest
  @EnumSource(ElementType.class)
  void theRuleIsWhatIsDone(ElementType type) {
    assumeProducts(type);
    Kernels kernels = kernels(type);
    buffers.alignTo16(true);
    for (boolean transposed : new boolean[] {true, false}) {
      Map map = map(type, transposed, 64, 128, 64, 0, 0, 128, 16).withScalesOfOne();
      SideBySide at = sideBySide(type, map, 0);
      MemorySegment y = buffers.output(type, 64 * 128);
      LinearWay way =
          kernels.linearByShape(
              transposed, 64, 128, 64, at.x, at.ldx, at.w, at.ldw, at.terms, y, 128);
      assertEquals(LinearWay.EXTRA_COLUMNS, way);
      MemorySegment chosen = run(type, LinearWay.BY_SHAPE, map, at, 128);
      assertEquals(-1, chosen.mismatch(run(type, way, map, at, 128)));
      LinearWay apart =
          kernels.linearByShape(
              transposed, 64, 128, 64, at.x, at.ldx, at.w, at.ldw, new LowRankTerms(0), y, 128);
      assertEquals(LinearWay.SEPARATE, apart);
    }
  }

  /** A sum has one order, whatever beta is, and rows do not know each other. */
  @ParameterizedTest
  @EnumSource(
      value = LinearWay.class,
      names = {"FUSED_NARROW", "FUSED_WIDE"})
  void rowsDoNotDependOnEachOther(LinearWay way) {
    onAGpuOnly("fused on tensor cores");
    ElementType type = ElementType.BF16;
    buffers.alignTo16(true);
    Map all = map(type, true, 140, 64, 96, 0, 0, 64, 16);
    Term term = all.terms.getFirst();
    Map few =
        new Map(
            true,
            3,
            64,
            96,
            0,
            Arrays.copyOf(all.x, 3 * 96),
            all.w,
            Arrays.copyOf(all.before, 3 * 64),
            List.of(new Term(0, 64, 16, term.scale, Arrays.copyOf(term.u, 3 * 16), term.v)));
    MemorySegment whole = run(type, way, all, 0);
    MemorySegment part = run(type, way, few, 0);
    assertEquals(-1, part.mismatch(whole.asSlice(0, part.byteSize())));
  }

  /** In float32 a map with terms is the products it is made of, bit for bit. */
  @Test
  void isTheProductsItIsMadeOf() {
    Map map = map(ElementType.F32, true, 70, 96, 130, 0, 0, 40, 8, 40, 56, 16);
    MemorySegment y = buffers.floats(70 * 96);
    kernels.gemm(
        false,
        true,
        70,
        96,
        130,
        1,
        buffers.input(map.x),
        130,
        buffers.input(map.w),
        130,
        0,
        y,
        96);
    for (Term t : map.terms) {
      kernels.gemm(
          false,
          true,
          70,
          t.n,
          t.r,
          t.scale,
          buffers.input(t.u),
          t.r,
          buffers.input(t.v),
          t.r,
          1,
          y.asSlice((long) t.from * Float.BYTES),
          96);
    }
    MemorySegment one = run(ElementType.F32, LinearWay.BY_SHAPE, map, 0);
    assertSameBits(TestBuffers.toFloats(y), TestBuffers.toFloats(one), "y");
  }

  /** With terms that end between panels, and within one. */
  @ParameterizedTest
  @ValueSource(ints = {256, 250})
  void isTheSameForAnyThreads(int end) {
    Map map = map(ElementType.F32, true, 300, 500, 128, 0, 0, end, 16, end, 500 - end, 16);
    assertSameForAnyThreads(
        () -> TestBuffers.toFloats(run(ElementType.F32, LinearWay.BY_SHAPE, map, 0)));
  }

  @Test
  void refusesWhatItCannotDo() {
    MemorySegment memory = buffers.input(new float[64]);
    LowRankTerms terms = new LowRankTerms(1);
    terms.set(0, memory, 2, memory, 2, 6, 4, 2, 1);
    NativeException beyond =
        assertThrows(NativeException.class, () -> linear(memory, terms, LinearWay.BY_SHAPE));
    assertTrue(beyond.getMessage().contains("columns [6, 10) of 8"), beyond.getMessage());
    terms.set(0, memory, 2, memory, 2, 4, 4, 2, 1);
    NativeException fused =
        assertThrows(NativeException.class, () -> linear(memory, terms, LinearWay.FUSED_WIDE));
    assertTrue(fused.getMessage().contains("way 3 needs"), fused.getMessage());
    NativeException apart =
        assertThrows(NativeException.class, () -> linear(memory, terms, LinearWay.EXTRA_COLUMNS));
    assertTrue(apart.getMessage().contains("no extra columns"), apart.getMessage());
    assertThrows(IllegalArgumentException.class, () -> new LowRankTerms(9));
  }

  private void linear(MemorySegment memory, LowRankTerms terms, LinearWay way) {
    kernels.linear(true, 2, 8, 4, memory, 4, memory, 4, terms, 0, buffers.floats(16), 8, way);
  }
}
