package espalier.hub;

import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/**
 * Where the Hub and its cache are, from the environment variables that huggingface_hub knows.
 *
 * @param cache {@code HF_HUB_CACHE}, or {@code hub} in {@code HF_HOME}
 * @param endpoint {@code HF_ENDPOINT}
 * @param token {@code HF_TOKEN}, or what logging in left in {@code HF_HOME}
 * @param offline {@code HF_HUB_OFFLINE}
 * @param proxy {@code HTTPS_PROXY} (or {@code HTTP_PROXY}, after the endpoint), in either case of
 *     letters, where {@code NO_PROXY} does not name the endpoint's host
 */
public record HubSettings(
    Path cache,
    URI endpoint,
    Optional<String> token,
    boolean offline,
    Optional<InetSocketAddress> proxy) {

  private static final Set<String> YES = Set.of("1", "on", "yes", "true");

  public static HubSettings of(Map<String, String> environment) {
    String cacheHome =
        environment.getOrDefault(
            "XDG_CACHE_HOME", environment.getOrDefault("HOME", "") + "/.cache");
    Path home = Path.of(environment.getOrDefault("HF_HOME", cacheHome + "/huggingface"));
    String cache = environment.get("HF_HUB_CACHE");
    URI endpoint =
        URI.create(
            environment
                .getOrDefault("HF_ENDPOINT", "https://huggingface.co")
                .replaceFirst("/+$", ""));
    return new HubSettings(
        cache == null ? home.resolve("hub") : Path.of(cache),
        endpoint,
        token(environment, home),
        YES.contains(environment.getOrDefault("HF_HUB_OFFLINE", "").toLowerCase()),
        proxy(environment, endpoint));
  }

  private static Optional<InetSocketAddress> proxy(Map<String, String> environment, URI endpoint) {
    for (String name : either(environment, "no_proxy").split(",")) {
      String host = name.strip().replaceFirst("^\\*?\\.", "");
      if (!host.isEmpty()
          && (endpoint.getHost().equals(host) || endpoint.getHost().endsWith("." + host))) {
        return Optional.empty();
      }
    }
    String given = either(environment, endpoint.getScheme() + "_proxy");
    if (given.isEmpty()) {
      return Optional.empty();
    }
    URI proxy = URI.create(given.contains("://") ? given : "http://" + given);
    return Optional.of(
        InetSocketAddress.createUnresolved(
            proxy.getHost(), proxy.getPort() < 0 ? 80 : proxy.getPort()));
  }

  private static String either(Map<String, String> environment, String name) {
    return environment.getOrDefault(
        name, environment.getOrDefault(name.toUpperCase(Locale.ROOT), ""));
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
