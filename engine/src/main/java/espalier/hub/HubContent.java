package espalier.hub;

import espalier.format.InputException;
import espalier.format.StrictJson;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;

/** What is looked for in a repository, and which of its files are needed for that. */
public enum HubContent {
  MODEL,
  ADAPTER,
  SAE,
  /** Whatever the repository's files show it to be. */
  ANY;

  private static final Map<HubContent, String> LABELS =
      Map.of(MODEL, "model in safetensors", ADAPTER, "PEFT adapter in safetensors", SAE, "SAE");
  private static final String WEIGHTS = "model.safetensors";
  static final String INDEX = "model.safetensors.index.json";
  private static final String TOKENIZER = "tokenizer.json";
  private static final String TOKENIZER_CONFIG = "tokenizer_config.json";
  private static final Set<String> MODEL_FILES =
      Set.of(
          "config.json",
          "generation_config.json",
          TOKENIZER,
          TOKENIZER_CONFIG,
          "special_tokens_map.json");
  private static final Set<String> ADAPTER_FILES =
      Set.of("adapter_config.json", "adapter_model.safetensors");

  /** The files that may lie beside an SAE's weights. */
  private static final Set<String> SAE_FILES =
      Set.of("cfg.json", "config.json", "hyperparams.json", "activation_scaler.json");

  /**
   * The files to download, except for the shards that an index names, which has not been read yet.
   * Weights come last. So if they exist the rest is complete, wherever a download broke off.
   *
   * @param path in the repository; empty for its top
   */
  List<HubFile> files(HubName name, HubListing listing) {
    List<HubFile> chosen =
        switch (this) {
          case MODEL -> model(listing);
          case ADAPTER -> in(listing, name.path(), ADAPTER_FILES);
          case SAE -> sae(name, listing);
          case ANY -> found(name, listing);
        };
    if (chosen.stream().noneMatch(this::isWeights)) {
      throw new InputException(
          "%s: the repository holds no %s there that Espalier can read"
              .formatted(name, this == ANY ? "model, adapter or SAE" : LABELS.get(this)));
    }
    chosen.sort(Comparator.comparing(this::isWeights));
    return chosen;
  }

  /** The files that are looked for besides these, and that the repository does not have. */
  static List<String> absent(List<HubFile> chosen, HubListing listing) {
    Set<String> wanted = new TreeSet<>(Set.of(TOKENIZER, TOKENIZER_CONFIG));
    chosen.forEach(file -> wanted.addAll(HubSaeFiles.of(file.path()).configurations()));
    listing.files().forEach(file -> wanted.remove(file.path()));
    return List.copyOf(wanted);
  }

  private boolean isWeights(HubFile file) {
    return file.name().endsWith(".safetensors")
        || file.name().equals(INDEX)
        || file.name().endsWith(".npz")
        || file.name().endsWith(".pt");
  }

  private static List<HubFile> found(HubName name, HubListing listing) {
    List<HubFile> adapter = in(listing, name.path(), ADAPTER_FILES);
    if (!adapter.isEmpty()) {
      return adapter;
    }
    List<HubFile> model = name.path().isEmpty() ? model(listing) : List.of();
    return model.stream().anyMatch(MODEL::isWeights) ? model : sae(name, listing);
  }

  /** The files of a model: one file of weights, or the index of several, which then names them. */
  private static List<HubFile> model(HubListing listing) {
    List<HubFile> files = in(listing, "", MODEL_FILES);
    List<HubFile> whole = in(listing, "", Set.of(WEIGHTS));
    files.addAll(whole.isEmpty() ? in(listing, "", Set.of(INDEX)) : whole);
    return files;
  }

  private static List<HubFile> sae(HubName name, HubListing listing) {
    Optional<HubFile> named =
        listing.files().stream().filter(file -> file.path().equals(name.path())).findFirst();
    if (named.isPresent()) {
      List<HubFile> files = in(listing, named.get().folder(), SAE_FILES);
      files.add(named.get());
      if (named.get().folder().endsWith("checkpoints")) {
        files.addAll(in(listing, HubSaeFiles.parent(named.get().folder()), SAE_FILES));
      }
      return files;
    }
    List<HubFile> files = in(listing, name.path(), Set.copyOf(HubSaeFiles.WEIGHTS));
    files.addAll(in(listing, name.path(), SAE_FILES));
    return files;
  }

  private static List<HubFile> in(HubListing listing, String folder, Set<String> names) {
    Set<String> paths =
        names.stream()
            .map(n -> HubSaeFiles.in(folder, n))
            .collect(Collectors.toCollection(TreeSet::new));
    return new ArrayList<>(
        listing.files().stream().filter(file -> paths.contains(file.path())).toList());
  }

  /** The shards that a downloaded index names. */
  static List<HubFile> shards(HubName name, Path index, HubListing listing) {
    StrictJson json = StrictJson.read(index);
    StrictJson map =
        json.object("weight_map").orElseThrow(() -> json.fault("weight_map", "is missing"));
    Set<String> shards = new TreeSet<>();
    map.keys().forEach(tensor -> shards.add(map.text(tensor)));
    List<HubFile> files = in(listing, "", shards);
    if (files.size() != shards.size()) {
      throw new InputException(name + ": the repository lacks shards that its index names");
    }
    return files;
  }

  /** Whether a snapshot holds all that is needed, so that the Hub need not be asked. */
  boolean isComplete(HubSnapshot snapshot, HubName name) {
    return switch (this) {
      case MODEL ->
          has(snapshot, name, "config.json")
              && isKnown(snapshot, name, TOKENIZER)
              && isKnown(snapshot, name, TOKENIZER_CONFIG) // which may say that there is no BOS
              && hasWeights(snapshot, name);
      case ADAPTER -> ADAPTER_FILES.stream().allMatch(file -> has(snapshot, name, file));
      case SAE ->
          HubSaeFiles.find(snapshot, name.path())
              .filter(sae -> sae.isComplete(snapshot))
              .isPresent();
      case ANY -> List.of(MODEL, ADAPTER, SAE).stream().anyMatch(c -> c.isComplete(snapshot, name));
    };
  }

  /**
   * If a snapshot has an SAE's weights but none of the configurations of which they need one: the
   * names of these configurations.
   */
  Optional<List<String>> missing(HubSnapshot snapshot, HubName name) {
    return this == SAE || this == ANY
        ? HubSaeFiles.find(snapshot, name.path())
            .filter(sae -> !sae.isReadable(snapshot))
            .map(HubSaeFiles::configurations)
        : Optional.empty();
  }

  private static boolean hasWeights(HubSnapshot snapshot, HubName name) {
    if (has(snapshot, name, WEIGHTS)) {
      return true;
    }
    if (!has(snapshot, name, INDEX)) {
      return false;
    }
    StrictJson json = StrictJson.read(snapshot.folder().resolve(name.path()).resolve(INDEX));
    return json.object("weight_map").stream()
        .flatMap(map -> map.keys().stream().map(map::text))
        .allMatch(shard -> HubName.isPlain(shard) && has(snapshot, name, shard));
  }

  private static boolean isKnown(HubSnapshot snapshot, HubName name, String file) {
    return has(snapshot, name, file) || snapshot.hasNot(file);
  }

  private static boolean has(HubSnapshot snapshot, HubName name, String file) {
    return snapshot.has(HubSaeFiles.in(name.path(), file));
  }
}
