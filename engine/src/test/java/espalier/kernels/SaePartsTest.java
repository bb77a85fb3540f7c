package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.bindings.NativeException;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/** Lists of an SAE's slices to lists of the whole and back, and columns of parts side by side. */
class SaePartsTest extends TypedKernelTest {

  private final Random random = new Random(31);

  /** One latent of a token. */
  private record Entry(int latent, float value) {}

  /** Where each of {@code parts} slices of m latents begins: some are short, one may be empty. */
  private int[] slices(int parts, int m) {
    int[] first = random.ints(parts, 0, m + 1).sorted().toArray();
    first[0] = 0;
    return first;
  }

  private static int end(int[] first, int p, int m) {
    return p + 1 < first.length ? first[p + 1] : m;
  }

  /**
   * A part's list of a token, in the order of latents. Values are one of a few, so that many are
   * equal.
   */
  private List<Entry> part(int latents, int most) {
    int entries = latents == 0 ? 0 : random.nextInt(Math.min(latents, most) + 1);
    List<Entry> list = new ArrayList<>();
    for (int latent :
        random.ints(0, Math.max(latents, 1)).distinct().limit(entries).sorted().toArray()) {
      list.add(new Entry(latent, 0.25f * (1 + random.nextInt(7))));
    }
    return list;
  }

  /** As esp_sae_merge reads them; nothing behind a list may be read. */
  private static int[] packed(List<List<List<Entry>>> parts, int tokens, int capacity) {
    int block = tokens * (1 + 2 * capacity);
    int[] packed = new int[parts.size() * block];
    Arrays.fill(packed, Float.floatToRawIntBits(Float.NaN));
    for (int p = 0; p < parts.size(); p++) {
      for (int t = 0; t < tokens; t++) {
        List<Entry> list = parts.get(p).get(t);
        packed[p * block + t] = list.size();
        for (int j = 0; j < Math.min(capacity, list.size()); j++) {
          int at = p * block + tokens + t * capacity + j;
          packed[at] = list.get(j).latent;
          packed[at + tokens * capacity] = Float.floatToRawIntBits(list.get(j).value);
        }
      }
    }
    return packed;
  }

  /** What the kernel made of lists, with {@code overflow} as it was before and is now. */
  private final class Merged {
    final MemorySegment index;
    final MemorySegment value;
    final MemorySegment pre;
    final MemorySegment count;
    final MemorySegment overflow;
    final int capacity;

    Merged(int[] packed, int[] first, int k, int tokens, int capacity, int before) {
      this.capacity = capacity;
      index = buffers.ints(tokens * capacity);
      value = buffers.floats(tokens * capacity);
      pre = buffers.floats(tokens * capacity);
      count = buffers.ints(tokens);
      overflow = buffers.changing(Float.intBitsToFloat(before));
      kernels.saeMerge(
          buffers.input(packed),
          buffers.input(first),
          first.length,
          k,
          index,
          value,
          pre,
          count,
          capacity,
          overflow,
          tokens);
    }

    void assertList(int t, List<Entry> expected) {
      assertEquals(expected.size(), TestBuffers.toInts(count)[t], "entries of token " + t);
      int[] latents = TestBuffers.toInts(index);
      float[] values = TestBuffers.toFloats(value);
      float[] pres = TestBuffers.toFloats(pre);
      for (int j = 0; j < expected.size(); j++) {
        int at = t * capacity + j;
        assertEquals(expected.get(j).latent, latents[at], "token " + t);
        assertEquals(expected.get(j).value, values[at], "token " + t);
        assertEquals(expected.get(j).value, pres[at], "token " + t);
      }
    }

    int overflow() {
      return TestBuffers.toInts(overflow)[0];
    }
  }

  /**
   * @param k 0: all are kept
   */
  private static List<Entry> whole(List<List<List<Entry>>> parts, int[] first, int token, int k) {
    List<Entry> all = new ArrayList<>();
    for (int p = 0; p < first.length; p++) {
      for (Entry entry : parts.get(p).get(token)) {
        all.add(new Entry(first[p] + entry.latent, entry.value));
      }
    }
    if (k > 0) {
      all.sort(Comparator.comparingDouble((Entry e) -> -e.value).thenComparingInt(Entry::latent));
      all = new ArrayList<>(all.subList(0, Math.min(k, all.size())));
      all.sort(Comparator.comparingInt(Entry::latent));
    }
    return all;
  }

  private List<List<List<Entry>>> parts(int[] first, int m, int tokens, int most) {
    List<List<List<Entry>>> parts = new ArrayList<>();
    for (int p = 0; p < first.length; p++) {
      List<List<Entry>> lists = new ArrayList<>();
      for (int t = 0; t < tokens; t++) {
        lists.add(t == 1 ? List.of() : part(end(first, p, m) - first[p], most));
      }
      parts.add(lists);
    }
    return parts;
  }

  /** Of few places and of more than a block looks at at once; of one part, and of empty ones. */
  @ParameterizedTest
  @CsvSource({"1, 9, 20, 4", "2, 30, 40, 7", "3, 70, 900, 100", "8, 5, 60, 3", "5, 3, 9000, 1800"})
  void allEntriesOneAfterAnother(int parts, int tokens, int m, int most) {
    int[] first = slices(parts, m);
    List<List<List<Entry>>> lists = parts(first, m, tokens, most);
    int capacity = parts * most;
    Merged merged = new Merged(packed(lists, tokens, capacity), first, 0, tokens, capacity, 0);
    for (int t = 0; t < tokens; t++) {
      merged.assertList(t, whole(lists, first, t, 0));
    }
    assertEquals(0, merged.overflow());
  }

  @ParameterizedTest
  @CsvSource({"1, 9, 20, 4", "2, 30, 40, 7", "3, 70, 900, 100", "8, 5, 60, 3", "5, 3, 9000, 1800"})
  void theLargestOfEqualOnesTheLowerIndex(int parts, int tokens, int m, int k) {
    int[] first = slices(parts, m);
    List<List<List<Entry>>> lists = parts(first, m, tokens, k);
    Merged merged = new Merged(packed(lists, tokens, k), first, k, tokens, k, 0);
    for (int t = 0; t < tokens; t++) {
      merged.assertList(t, whole(lists, first, t, k));
    }
    assertEquals(0, merged.overflow());
  }

  /** Which of many equal ones are kept. */
  @Test
  void allAreEqual() {
    List<Entry> same = new ArrayList<>();
    for (int i = 0; i < 6; i++) {
      same.add(new Entry(2 * i, 1.5f));
    }
    List<List<List<Entry>>> lists = List.of(List.of(same), List.of(List.of()), List.of(same));
    Merged merged = new Merged(packed(lists, 1, 8), new int[] {0, 20, 30}, 8, 1, 8, 0);
    merged.assertList(0, whole(lists, new int[] {0, 20, 30}, 0, 8));
    assertEquals(32, TestBuffers.toInts(merged.index)[7]);
  }

  /** A part that had too little room says what it needs, a row that has too little likewise. */
  @Test
  void whatIsTooLongIsToldAndTheFirstAreKept() {
    List<Entry> five = new ArrayList<>();
    for (int i = 0; i < 5; i++) {
      five.add(new Entry(i, i + 1));
    }
    List<Entry> two = five.subList(0, 2);
    int[] first = {0, 10};
    List<List<List<Entry>>> lists =
        List.of(List.of(two, five, two), List.of(List.of(), two, five.subList(0, 3)));
    int[] packed = packed(lists, 3, 4); // of token 1, the first part's five have room for four
    Merged merged = new Merged(packed, first, 0, 3, 4, 3);
    assertEquals(7, merged.overflow());
    merged.assertList(0, two);
    merged.assertList(1, five.subList(0, 4));
    merged.assertList(2, List.of(two.get(0), two.get(1), new Entry(10, 1), new Entry(11, 2)));
    assertEquals(9, new Merged(packed, first, 0, 3, 4, 9).overflow());
  }

  @ParameterizedTest
  @CsvSource({"0", "3"})
  void whatIsNotANumberIsAllThereIs(int k) {
    List<Entry> some = List.of(new Entry(1, 2), new Entry(4, 0.5f));
    List<Entry> nan = List.of(new Entry(0, Float.NaN));
    List<List<List<Entry>>> lists = List.of(List.of(some, some), List.of(nan, some));
    Merged merged = new Merged(packed(lists, 2, 3 + 1), new int[] {0, 7}, k, 2, 4, 0);
    assertArrayEquals(new int[] {1, k == 0 ? 4 : 3}, TestBuffers.toInts(merged.count));
    assertEquals(0, TestBuffers.toInts(merged.index)[0]);
    assertTrue(Float.isNaN(TestBuffers.toFloats(merged.value)[0]));
    merged.assertList(1, whole(lists, new int[] {0, 7}, 1, k));
    assertEquals(0, merged.overflow());
  }

  /** Each part's entries, and what parts have of them brought back to where it belongs. */
  @ParameterizedTest
  @CsvSource({"1, 5, 40, 9", "2, 33, 100, 64", "3, 70, 40, 40", "9, 4, 300, 120"})
  void partsAndTheWhole(int parts, int tokens, int m, int capacity) {
    int[] first = slices(parts, m);
    Lists lists = Lists.random(random, tokens, m, capacity);
    MemorySegment index = buffers.input(lists.index());
    MemorySegment count = buffers.input(lists.count());
    float[] ofParts = new float[parts * tokens * capacity];
    Arrays.fill(ofParts, Float.NaN);
    for (int p = 0; p < parts; p++) {
      MemorySegment partIndex = buffers.ints(tokens * capacity);
      MemorySegment partCount = buffers.ints(tokens);
      int latents = end(first, p, m) - first[p];
      kernels.saePart(index, count, capacity, first[p], latents, partIndex, partCount, tokens);
      int[] found = TestBuffers.toInts(partIndex);
      int[] entries = TestBuffers.toInts(partCount);
      for (int t = 0; t < tokens; t++) {
        int from = first[p];
        int[] own =
            Arrays.stream(lists.index(), t * capacity, t * capacity + lists.count()[t])
                .filter(i -> i >= from && i < from + latents)
                .map(i -> i - from)
                .toArray();
        assertArrayEquals(own, Arrays.copyOfRange(found, t * capacity, t * capacity + entries[t]));
        for (int j = 0; j < own.length; j++) {
          ofParts[(p * tokens + t) * capacity + j] = valueOf(t, from + own[j]);
        }
        for (int j = own.length; j < capacity; j++) {
          assertEquals(-1, found[t * capacity + j], "written behind a list");
        }
      }
    }
    MemorySegment value = buffers.floats(tokens * capacity);
    kernels.saeJoin(
        buffers.input(ofParts), buffers.input(first), parts, index, count, capacity, value, tokens);
    float[] joined = TestBuffers.toFloats(value);
    lists.forEach(
        (t, entry, latent) -> {
          assertEquals(valueOf(t, latent), joined[entry]);
          joined[entry] = Float.NaN;
        });
    for (float behind : joined) {
      assertTrue(Float.isNaN(behind), "written behind a list");
    }
  }

  private static float valueOf(int token, int latent) {
    return 1000 * token + latent;
  }

  /** Widths that packs fit and do not, a last part that is cut, and one that is beyond. */
  @ParameterizedTest
  @MethodSource("layouts")
  void columnsSideBySide(Layout layout) {
    int[][] shapes = {{5, 16, 48}, {3, 16, 40}, {7, 16, 33}, {4, 5, 13}, {2, 32, 24}, {6, 8, 8}};
    for (int[] shape : shapes) {
      int rows = shape[0];
      int width = shape[1];
      int cols = shape[2];
      int parts = (cols + width - 1) / width;
      float[] values = random(layout.type(), parts * rows * width, 1);
      float[] kept = random(layout.type(), rows * cols, 1);
      kept[0] = -0f;
      byte[] keep = new byte[rows];
      keep[0] = 1;
      keep[rows - 1] = 1;
      for (boolean keeps : new boolean[] {false, true}) {
        var kernels = kernels(layout);
        MemorySegment out = buffers.output(layout.type(), rows * cols);
        kernels.joinColumns(
            buffers.input(layout.type(), values),
            width,
            keeps ? buffers.input(keep) : NULL,
            keeps ? buffers.input(layout.type(), kept) : NULL,
            out,
            rows,
            cols);
        float[] expected = new float[rows * cols];
        for (int i = 0; i < expected.length; i++) {
          int r = i / cols;
          int c = i % cols;
          expected[i] =
              keeps && keep[r] != 0 ? kept[i] : values[(c / width * rows + r) * width + c % width];
        }
        assertSameBits(expected, TestBuffers.toFloats(layout.type(), out), Arrays.toString(shape));
      }
    }
  }

  /** Kept rows are copies in kernels of the whole SAE, too, so that both have the same bits. */
  @ParameterizedTest
  @MethodSource("layouts")
  void keptRowsKeepTheSignOfZero(Layout layout) {
    int d = 16;
    float[] zeros = new float[d];
    Arrays.fill(zeros, -0f);
    var kernels = kernels(layout);
    MemorySegment kept = buffers.input(layout.type(), zeros);
    MemorySegment keep = buffers.input((byte) 1);
    MemorySegment count = buffers.input(0);
    MemorySegment index = buffers.input(0);
    MemorySegment w = buffers.input(layout.type(), random(d));
    MemorySegment out = buffers.output(layout.type(), d);
    MemorySegment value = buffers.input(0f);
    kernels.saeDecode(index, value, count, 1, w, buffers.input(random(d)), keep, kept, out, 1, d);
    assertSameBits(zeros, TestBuffers.toFloats(layout.type(), out), "decoded");
    MemorySegment dX = buffers.output(layout.type(), d);
    kernels.saeEncodeBackward(value, index, count, 1, w, keep, kept, dX, false, 1, d);
    assertSameBits(zeros, TestBuffers.toFloats(layout.type(), dX), "gradient");
  }

  @Test
  void brokenContractsAreRefused() {
    MemorySegment x = buffers.floats(64);
    assertRefused(() -> kernels.saeMerge(x, x, 1, 3, x, x, x, x, 2, x, 1), "k must be in [0, 2]");
    assertRefused(() -> kernels.saePart(x, x, 2, -1, 3, x, x, 1), "first=-1");
    assertRefused(() -> kernels.joinColumns(x, 2, x, NULL, x, 0, 4), "keep needs the rows");
    assertThrows(IllegalArgumentException.class, () -> kernels.saeJoin(x, x, 0, x, x, 2, x, 1));
    assertThrows(IllegalArgumentException.class, () -> kernels.saeEncodePanel(0));
  }

  private static void assertRefused(org.junit.jupiter.api.function.Executable call, String why) {
    NativeException e = assertThrows(NativeException.class, call);
    assertEquals(-1, e.status());
    assertTrue(e.getMessage().contains(why), e.getMessage());
  }

  @ParameterizedTest
  @CsvSource({"1", "3", "100", "128", "129", "10000"})
  void aPanelHoldsWholeGroups(long group) {
    long panel = kernels.saeEncodePanel(group);
    assertEquals(0, panel % group);
    assertTrue(panel == group || panel <= kernels.saeEncodePanel(1));
    assertTrue(panel + group > kernels.saeEncodePanel(1));
  }
}
