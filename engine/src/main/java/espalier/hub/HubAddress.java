package espalier.hub;

import espalier.format.InputException;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.URISyntaxException;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * How the Hub is reached.
 *
 * @param endpoint {@code HF_ENDPOINT}
 * @param proxy {@code HTTPS_PROXY} (or {@code HTTP_PROXY}, depending on the endpoint), in capitals
 *     or small letters, unless {@code NO_PROXY} names the endpoint's host
 */
record HubAddress(URI endpoint, Optional<InetSocketAddress> proxy) {

  /** The parts of a proxy's address. Scheme, user and path are ignored. */
  private static final Pattern PROXY =
      Pattern.compile(
          "(?:[A-Za-z][A-Za-z0-9+.-]*://)?(?:[^/]*@)?"
              + "(\\[[^\\]]+\\]|[^:/?#\\[\\]]+)(?::([0-9]{1,5}))?(?:[/?#].*)?");

  private static final int LARGEST_PORT = 65_535;

  /**
   * Reads the variables.
   *
   * @throws InputException if a variable that matters holds no address. The message names the
   *     variable and not its value, which may have a password in it
   */
  static HubAddress of(Map<String, String> environment) {
    URI endpoint =
        endpoint(
            environment
                .getOrDefault("HF_ENDPOINT", "https://huggingface.co")
                .replaceFirst("/+$", ""));
    return new HubAddress(endpoint, proxy(environment, endpoint));
  }

  private static URI endpoint(String given) {
    URI endpoint = parsed(given);
    if (endpoint.getHost() == null || !String.valueOf(endpoint.getScheme()).matches("https?")) {
      throw new InputException("HF_ENDPOINT is no address such as https://huggingface.co");
    }
    return endpoint;
  }

  /** A URI, or empty if it is none. The URI's own exception would quote the value. */
  private static URI parsed(String given) {
    try {
      return new URI(given);
    } catch (URISyntaxException e) {
      return URI.create("");
    }
  }

  private static Optional<InetSocketAddress> proxy(Map<String, String> environment, URI endpoint) {
    for (String name : environment.getOrDefault(set(environment, "no_proxy"), "").split(",")) {
      String host = name.strip().replaceFirst("^\\*?\\.", "");
      if (!host.isEmpty()
          && (endpoint.getHost().equals(host) || endpoint.getHost().endsWith("." + host))) {
        return Optional.empty();
      }
    }
    String variable = set(environment, endpoint.getScheme() + "_proxy");
    String given = environment.getOrDefault(variable, "");
    if (given.isEmpty()) {
      return Optional.empty();
    }
    Matcher proxy = PROXY.matcher(given);
    boolean matches = proxy.matches();
    int port = matches && proxy.group(2) != null ? Integer.parseInt(proxy.group(2)) : 80;
    if (!matches || parsed("http://" + proxy.group(1)).getHost() == null || port > LARGEST_PORT) {
      throw new InputException(
          variable
              + " is no address such as http://proxy.example:3128 (a host's name has letters,"
              + " digits, hyphens and dots)");
    }
    return Optional.of(InetSocketAddress.createUnresolved(proxy.group(1), port));
  }

  /** The value of a variable, whose name may be in small letters or in capitals. */
  private static String set(Map<String, String> environment, String name) {
    return environment.containsKey(name) ? name : name.toUpperCase(Locale.ROOT);
  }
}
