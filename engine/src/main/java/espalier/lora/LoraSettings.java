package espalier.lora;

import espalier.format.PeftAdapter;
import java.util.Collection;
import java.util.HashMap;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * Which layers are adapted, each with its rank and alpha.
 *
 * @param layers by the path of the linear layer, such as {@code model.layers.3.mlp.up_proj}
 * @param rankStabilised whether updates are scaled by alpha / sqrt(rank), not by alpha / rank
 *     (Kalajdzievski 2023)
 * @param dropout in [0, 1), of the updates' input
 */
public record LoraSettings(
    SortedMap<String, Layer> layers, boolean rankStabilised, double dropout) {

  /**
   * @param rank inner dimension of the update
   * @param alpha numerator of its scale
   */
  public record Layer(int rank, double alpha) {}

  /** The same rank and alpha for all these layers. */
  public static LoraSettings uniform(
      Collection<String> paths, int rank, double alpha, double dropout) {
    SortedMap<String, Layer> layers = new TreeMap<>();
    paths.forEach(path -> layers.put(path, new Layer(rank, alpha)));
    return new LoraSettings(layers, false, dropout);
  }

  /** Those of an adapter in PEFT's layout; its own dropout is not used. */
  public static LoraSettings of(PeftAdapter file, double dropout) {
    SortedMap<String, Layer> layers = new TreeMap<>();
    file.layers()
        .forEach((path, layer) -> layers.put(path, new Layer(layer.rank(), layer.alpha())));
    return new LoraSettings(layers, file.rankStabilised(), dropout);
  }

  /** By the path of the layer. */
  public Map<String, Integer> ranks() {
    Map<String, Integer> ranks = new HashMap<>();
    layers.forEach((path, layer) -> ranks.put(path, layer.rank));
    return ranks;
  }

  double scale(String path) {
    Layer layer = layers.get(path);
    return layer.alpha / (rankStabilised ? Math.sqrt(layer.rank) : layer.rank);
  }
}
