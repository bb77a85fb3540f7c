package espalier.device;

import espalier.bindings.kernels.esp_low_rank;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;

/**
 * The low-rank terms of a {@linkplain Kernels#linear linear map}: each adds {@code scale u op(v)}
 * to columns {@code [from, from + n)} of its result. Allocated once and filled anew before every
 * call, as buffers may move between two of them.
 */
public final class LowRankTerms {

  private final MemorySegment structs;
  private final MemorySegment[] each;
  private final MemorySegment[] u;
  private final MemorySegment[] v;

  /**
   * @throws IllegalArgumentException if {@code count} is more than a call takes
   */
  public LowRankTerms(int count) {
    int most = espalier.bindings.kernels.Kernels.ESP_LARGEST_TERMS();
    if (count < 0 || count > most) {
      throw new IllegalArgumentException(count + " low-rank terms of one map, at most " + most);
    }
    structs = esp_low_rank.allocateArray(Math.max(1, count), Arena.ofAuto());
    each = new MemorySegment[count];
    u = new MemorySegment[count];
    v = new MemorySegment[count];
    for (int i = 0; i < count; i++) each[i] = esp_low_rank.asSlice(structs, i);
  }

  public int count() {
    return each.length;
  }

  /**
   * @param uOfTerm {@code [m, r]}, rows {@code ldU} elements apart
   * @param vOfTerm {@code [n, r]} where the map is transposed, else {@code [r, n]}
   */
  public void set(
      int i,
      MemorySegment uOfTerm,
      long ldU,
      MemorySegment vOfTerm,
      long ldV,
      long from,
      long n,
      long r,
      float scale) {
    u[i] = uOfTerm;
    v[i] = vOfTerm;
    MemorySegment struct = each[i];
    esp_low_rank.u(struct, uOfTerm);
    esp_low_rank.ld_u(struct, ldU);
    esp_low_rank.v(struct, vOfTerm);
    esp_low_rank.ld_v(struct, ldV);
    esp_low_rank.from(struct, from);
    esp_low_rank.n(struct, n);
    esp_low_rank.r(struct, r);
    esp_low_rank.scale(struct, scale);
  }

  /** Columns of the result that a term is added to. */
  long columns(int i) {
    return esp_low_rank.n(each[i]);
  }

  long rank(int i) {
    return esp_low_rank.r(each[i]);
  }

  MemorySegment structs() {
    return structs;
  }

  /** That every term's memory holds what the map of {@code m} rows needs. */
  void check(String kernel, boolean transposed, long m, ElementType type) {
    for (int i = 0; i < each.length; i++) {
      if (u[i] == null) {
        throw new IllegalArgumentException(kernel + ": term " + i + " was never set");
      }
      MemorySegment struct = each[i];
      long n = esp_low_rank.n(struct);
      long r = esp_low_rank.r(struct);
      Arguments.matrix(kernel, "u", u[i], m, r, esp_low_rank.ld_u(struct), type.bytes());
      Arguments.matrix(
          kernel,
          "v",
          v[i],
          transposed ? n : r,
          transposed ? r : n,
          esp_low_rank.ld_v(struct),
          type.bytes());
    }
  }
}
