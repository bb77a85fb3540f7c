package espalier.nn;

import espalier.autograd.LowRank;
import java.lang.foreign.MemorySegment;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * The low-rank updates in force when a model is recorded.
 *
 * @param byPath updates by the path of the linear layer they belong to, such as {@code
 *     model.layers.3.mlp.up_proj}
 * @param seed uint64 in device memory: the seed of the current step's dropout
 */
public record Adapters(Map<String, LowRank> byPath, MemorySegment seed) {

  /** The original model. */
  public static final Adapters NONE = new Adapters(Map.of(), MemorySegment.NULL);

  /** The same updates, for passes that train nothing. */
  public Adapters frozen() {
    Map<String, LowRank> frozen = new LinkedHashMap<>();
    byPath.forEach((path, update) -> frozen.put(path, update.frozen()));
    return new Adapters(frozen, seed);
  }

  /** Whether a layer whose path begins with {@code prefix} is adapted. */
  public boolean touch(String prefix) {
    return byPath.keySet().stream().anyMatch(path -> path.startsWith(prefix));
  }
}
