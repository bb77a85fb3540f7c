package espalier.hub;

import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A repository of the Hugging Face Hub, named as researchers name it, such as {@code
 * google/gemma-2-2b} or {@code google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82@main}.
 *
 * @param repository owner and name
 * @param path of a folder or file in it; empty for the whole repository
 * @param revision a branch, tag or commit
 */
record HubName(String repository, String path, String revision) {

  private static final String MAIN = "main";
  private static final String PART = "[A-Za-z0-9][A-Za-z0-9._-]{0,95}";
  private static final Pattern NAME =
      Pattern.compile(
          "(%s/%s)((?:/[^/@\\\\]+)*)/?(?:@([A-Za-z0-9._/-]{1,200}))?".formatted(PART, PART));

  /**
   * Reads a name. Empty for what cannot be one, such as absolute paths and paths that begin with a
   * dot.
   */
  static Optional<HubName> parse(String text) {
    Matcher matcher = NAME.matcher(text);
    if (!matcher.matches() || !isPlain(matcher.group(2).replaceFirst("^/", ""))) {
      return Optional.empty();
    }
    String revision = matcher.group(3) == null ? MAIN : matcher.group(3);
    return isPlain(revision)
        ? Optional.of(
            new HubName(matcher.group(1), matcher.group(2).replaceFirst("^/", ""), revision))
        : Optional.empty();
  }

  /** Whether a path stays below its folder: no name from outside may lead out of the cache. */
  static boolean isPlain(String path) {
    if (path.isEmpty()) {
      return true;
    }
    for (String part : path.split("/", -1)) {
      if (part.isEmpty()
          || part.equals(".")
          || part.equals("..")
          || part.chars().anyMatch(c -> c < ' ' || c == '\\' || c == 0x7F)) {
        return false;
      }
    }
    return true;
  }

  /** The name of the repository's folder in a cache. */
  String folder() {
    return "models--" + repository.replace("/", "--");
  }

  @Override
  public String toString() {
    return repository
        + (path.isEmpty() ? "" : "/" + path)
        + (revision.equals(MAIN) ? "" : "@" + revision);
  }
}
