package espalier.hub;

import espalier.format.InputException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.Optional;
import java.util.function.LongConsumer;

/**
 * Finds models, adapters and SAEs by their names on the Hugging Face Hub: on this machine, in the
 * Hub's cache, or on the Hub itself. From the Hub they are downloaded into the cache.
 */
public final class Hub {

  /** Shows the progress of downloads. */
  public interface Progress {
    /**
     * Begins a file.
     *
     * @param bytes its size; negative if unknown
     * @return told how many bytes have arrived, and closed at the end
     */
    Bar begin(String file, long bytes);

    /** The progress of one file. */
    interface Bar extends LongConsumer, AutoCloseable {
      @Override
      void close();
    }
  }

  private final HubSettings settings;
  private final Progress progress;
  private final HubCache cache;
  private final Duration pause;
  private final Duration patience;

  public Hub(HubSettings settings, Progress progress) {
    this(settings, progress, Duration.ofSeconds(1), HubClient.PATIENCE);
  }

  Hub(HubSettings settings, Progress progress, Duration pause, Duration patience) {
    this.settings = settings;
    this.progress = progress;
    cache = new HubCache(settings.cache());
    this.pause = pause;
    this.patience = patience;
  }

  /** Of which repository a model's folder is, if it is a snapshot in a cache of the Hub. */
  public static Optional<String> repository(Path folder) {
    return HubCache.repository(folder.toAbsolutePath().normalize());
  }

  /**
   * Finds a folder or file on this machine. What exists here under that name is taken. What cannot
   * be a repository's name is returned as it is, for its reader to refuse.
   *
   * @throws InputException if it is neither here nor on the Hub, if it is gated, or if it arrived
   *     damaged
   */
  public Path locate(Path given, HubContent content) {
    Optional<HubName> parsed =
        Files.exists(given) ? Optional.empty() : HubName.parse(given.toString());
    if (parsed.isEmpty()) {
      return given;
    }
    HubName name = parsed.get();
    Optional<HubSnapshot> snapshot = cache.snapshot(name);
    if (settings.offline()) {
      return offline(name, content, snapshot);
    }
    return snapshot
        .filter(there -> content.isComplete(there, name))
        .map(HubSnapshot::folder)
        .orElseGet(() -> download(name, content))
        .resolve(name.path());
  }

  /** Without the Hub what the cache has is enough, as long as something can be read from it. */
  private Path offline(HubName name, HubContent content, Optional<HubSnapshot> snapshot) {
    Optional<Path> there =
        snapshot.map(s -> s.folder().resolve(name.path())).filter(path -> Files.exists(path));
    Optional<List<String>> missing = snapshot.flatMap(s -> content.missing(s, name));
    if (there.isPresent() && missing.isEmpty()) {
      return there.get();
    }
    String what =
        missing
            .map(
                configurations -> "has weights, but no " + configurations.getFirst() + " for them,")
            .orElse("is no file or folder here, and is not");
    throw new InputException(
        "%s: %s in the Hub's cache %s; HF_HUB_OFFLINE forbids asking the Hub"
            .formatted(name, what, settings.cache()));
  }

  private Path download(HubName name, HubContent content) {
    // Only now: an HTTP client with TLS takes a tenth of a second to make.
    HubClient client = new HubClient(settings, pause, patience);
    HubListing listing = client.list(name);
    List<HubFile> files = content.files(name, listing);
    HubContent.absent(files, listing)
        .forEach(path -> cache.noteAbsent(name, listing.commit(), path));
    files.forEach(file -> provide(client, name, listing.commit(), file));
    Path snapshot = cache.snapshot(name, listing.commit()).folder();
    if (files.stream().anyMatch(file -> file.path().equals(HubContent.INDEX))) {
      HubContent.shards(name, snapshot.resolve(HubContent.INDEX), listing)
          .forEach(file -> provide(client, name, listing.commit(), file));
    }
    cache.refer(name, listing.commit());
    return snapshot;
  }

  private void provide(HubClient client, HubName name, String commit, HubFile file) {
    cache.provide(
        name,
        commit,
        file,
        target -> {
          try (Progress.Bar bar = progress.begin(file.path(), file.size())) {
            client.download(name, commit, file, target, bar);
          }
        });
  }
}
