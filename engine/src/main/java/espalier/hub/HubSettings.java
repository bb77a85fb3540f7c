package espalier.hub;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.Supplier;

/**
 * Where the Hub and its cache are, from the environment variables that huggingface_hub knows.
 *
 * @param cache {@code HF_HUB_CACHE}, or {@code hub} in {@code HF_HOME}
 * @param address how the Hub is reached: looked at only by those who must
 * @param token {@code HF_TOKEN}, or what logging in left in {@code HF_HOME}
 * @param offline {@code HF_HUB_OFFLINE}
 */
public record HubSettings(
    Path cache, Supplier<HubAddress> address, Optional<String> token, boolean offline) {

  private static final Set<String> YES = Set.of("1", "on", "yes", "true");

  public static HubSettings of(Map<String, String> environment) {
    String cacheHome =
        environment.getOrDefault(
            "XDG_CACHE_HOME", environment.getOrDefault("HOME", "") + "/.cache");
    Path home = Path.of(environment.getOrDefault("HF_HOME", cacheHome + "/huggingface"));
    String cache = environment.get("HF_HUB_CACHE");
    return new HubSettings(
        cache == null ? home.resolve("hub") : Path.of(cache),
        () -> HubAddress.of(environment),
        token(environment, home),
        YES.contains(environment.getOrDefault("HF_HUB_OFFLINE", "").toLowerCase()));
  }

  private static Optional<String> token(Map<String, String> environment, Path home) {
    String token = environment.get("HF_TOKEN");
    Path file =
        Path.of(environment.getOrDefault("HF_TOKEN_PATH", home.resolve("token").toString()));
    if (token == null && Files.isReadable(file)) {
      try {
        token = Files.readString(file);
      } catch (IOException e) {
        return Optional.empty();
      }
    }
    return Optional.ofNullable(token).map(String::strip).filter(t -> !t.isEmpty());
  }
}
