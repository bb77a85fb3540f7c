package espalier.hub;

import java.util.List;
import java.util.Optional;
import java.util.stream.Stream;

/**
 * The weights of an SAE in a repository, and the configuration that the reader of their format asks
 * for.
 *
 * @param weights path in the repository
 * @param configurations paths, of which the reader needs one; none if the format has none
 * @param needed whether nothing can be read without a configuration; other formats usually have
 *     one, too
 */
record HubSaeFiles(String weights, List<String> configurations, boolean needed) {

  /** The names that weights have in a folder, in the order in which the readers look for them. */
  static final List<String> WEIGHTS =
      List.of(
          "sae_weights.safetensors",
          "sae.safetensors",
          "params.safetensors",
          "params.npz",
          "ae.pt",
          "checkpoints/final.safetensors");

  static HubSaeFiles of(String weights) {
    String folder = parent(weights);
    String above = "checkpoints".equals(name(folder)) ? parent(folder) : folder;
    String name = name(weights);
    return switch (name) {
      case "sae_weights.safetensors" -> with(weights, true, folder, "cfg.json", "config.json");
      case "sae.safetensors" -> with(weights, true, folder, "cfg.json");
      case "final.safetensors" -> with(weights, true, above, "hyperparams.json");
      case "params.safetensors" -> with(weights, false, folder, "config.json");
      default ->
          name.endsWith(".pt")
              ? with(weights, false, above, "config.json")
              : with(weights, false, folder);
    };
  }

  private static HubSaeFiles with(String weights, boolean needed, String folder, String... names) {
    return new HubSaeFiles(weights, Stream.of(names).map(n -> in(folder, n)).toList(), needed);
  }

  /**
   * The weights that a snapshot has at a path, which is that of a folder or of the weights
   * themselves.
   */
  static Optional<HubSaeFiles> find(HubSnapshot snapshot, String path) {
    return Stream.concat(Stream.of(path), WEIGHTS.stream().map(name -> in(path, name)))
        .filter(snapshot::has)
        .findFirst()
        .map(HubSaeFiles::of);
  }

  /** Whether the snapshot has all that the repository has of these files. */
  boolean isComplete(HubSnapshot snapshot) {
    return configurations.stream().anyMatch(snapshot::has)
        || configurations.stream().allMatch(snapshot::hasNot);
  }

  /** Whether a reader can read what the snapshot has. */
  boolean isReadable(HubSnapshot snapshot) {
    return !needed || configurations.stream().anyMatch(snapshot::has);
  }

  static String in(String folder, String name) {
    return folder.isEmpty() ? name : folder + "/" + name;
  }

  static String parent(String path) {
    return path.contains("/") ? path.substring(0, path.lastIndexOf('/')) : "";
  }

  private static String name(String path) {
    return path.substring(path.lastIndexOf('/') + 1);
  }
}
