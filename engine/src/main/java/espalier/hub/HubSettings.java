package espalier.hub;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.Supplier;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Where the Hub and its cache are, from the environment variables that huggingface_hub knows.
 *
 * @param cache {@code HF_HUB_CACHE}, or {@code hub} in {@code HF_HOME}
 * @param address how the Hub is reached; computed only when it is needed
 * @param token {@code HF_TOKEN}, or what a login left in {@code HF_HOME}
 * @param offline {@code HF_HUB_OFFLINE}
 */
public record HubSettings(
    Path cache, Supplier<HubAddress> address, Optional<String> token, boolean offline) {

  private static final Pattern VARIABLE = Pattern.compile("\\$(?:\\w+|\\{[^}]*\\})");
  private static final Set<String> YES = Set.of("1", "on", "yes", "true");

  public static HubSettings of(Map<String, String> environment) {
    String cacheHome =
        environment.getOrDefault(
            "XDG_CACHE_HOME", environment.getOrDefault("HOME", "") + "/.cache");
    Path home = path(environment, "HF_HOME", cacheHome + "/huggingface");
    return new HubSettings(
        path(environment, "HF_HUB_CACHE", home.resolve("hub").toString()),
        () -> HubAddress.of(environment),
        token(environment, home),
        YES.contains(environment.getOrDefault("HF_HUB_OFFLINE", "").toLowerCase()));
  }

  /**
   * A path, with {@code ~} and other variables in it put in as huggingface_hub does: what sets
   * variables for a container or a job is not always a shell.
   */
  private static Path path(Map<String, String> environment, String name, String otherwise) {
    String given = environment.getOrDefault(name, otherwise).replaceFirst("^~(?=/|$)", "\\$HOME");
    return Path.of(
        VARIABLE
            .matcher(given)
            .replaceAll(
                found -> {
                  String variable = found.group().replaceAll("[${}]", "");
                  return Matcher.quoteReplacement(
                      environment.getOrDefault(variable, found.group()));
                }));
  }

  private static Optional<String> token(Map<String, String> environment, Path home) {
    String token = environment.getOrDefault("HF_TOKEN", "").strip();
    Path file = path(environment, "HF_TOKEN_PATH", home.resolve("token").toString());
    if (token.isEmpty() && Files.isReadable(file)) {
      try {
        token = Files.readString(file).strip();
      } catch (IOException e) {
        return Optional.empty();
      }
    }
    return Optional.of(token).filter(t -> !t.isEmpty());
  }
}
