package espalier.hub;

import espalier.format.InputException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.ProxySelector;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.Arrays;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.LongConsumer;
import java.util.stream.Collectors;

/** The few requests to the Hub: what a repository holds, and its files. */
final class HubClient {

  private static final int ATTEMPTS = 5;
  private static final int REDIRECTS = 5;
  private static final int LARGEST_ANSWER = 64 << 20;

  /** How long an answer, and every part of it, may take to arrive. */
  static final Duration PATIENCE = Duration.ofSeconds(60);

  private final URI endpoint;
  private final Optional<String> token;
  private final Duration pause;
  private final Duration patience;

  /**
   * The client does not follow redirects. They are followed here, because the token must not go
   * along.
   */
  private final HttpClient http;

  /**
   * @param pause before the second attempt; it doubles with each further one
   * @param patience how long to wait for a server that says nothing
   */
  HubClient(HubSettings settings, Duration pause, Duration patience) {
    HubAddress address = settings.address().get();
    endpoint = address.endpoint();
    token = settings.token();
    this.pause = pause;
    this.patience = patience;
    HttpClient.Builder builder =
        HttpClient.newBuilder()
            .followRedirects(HttpClient.Redirect.NEVER)
            .connectTimeout(Duration.ofSeconds(20));
    address.proxy().ifPresent(proxy -> builder.proxy(ProxySelector.of(proxy)));
    http = builder.build();
  }

  HubListing list(HubName name) {
    String path = "/api/models/%s/revision/%s?blobs=true";
    URI uri = at(path.formatted(name.repository(), encoded(name.revision())));
    try (InputStream body = new PatientStream(answered(name, uri, 0).body(), patience)) {
      byte[] answer = body.readNBytes(LARGEST_ANSWER);
      return HubListing.parse(name, new String(answer, StandardCharsets.UTF_8));
    } catch (IOException e) {
      throw unreachable(name, e);
    }
  }

  /**
   * Downloads into {@code target}. It continues where that file ends, and tries again after a
   * connection was cut.
   *
   * @param progress told how many bytes have arrived
   */
  void download(HubName name, String commit, HubFile file, Path target, LongConsumer progress) {
    String path =
        Arrays.stream(file.path().split("/"))
            .map(HubClient::encoded)
            .collect(Collectors.joining("/"));
    URI uri = at("/%s/resolve/%s/%s".formatted(name.repository(), commit, path));
    long before = size(target);
    for (int attempt = 1; ; attempt++) {
      try {
        if (fetch(name, uri, file, target, progress)) {
          return;
        }
        throw new IOException("cut off");
      } catch (IOException e) {
        long there = size(target);
        attempt = there > before ? 1 : attempt; // patience with a bad line that gets on
        before = there;
        if (attempt == ATTEMPTS) {
          throw new InputException(
              "%s: the download of %s broke off at %d bytes (%s); the same command continues from there"
                  .formatted(name, file.path(), there, e.getMessage()));
        }
        sleep(attempt);
      }
    }
  }

  private static long size(Path file) {
    try {
      return Files.exists(file) ? Files.size(file) : 0;
    } catch (IOException e) {
      throw new UncheckedIOException(file + " cannot be read", e);
    }
  }

  /** Makes one attempt. Returns whether the whole file has arrived. */
  private boolean fetch(HubName name, URI uri, HubFile file, Path target, LongConsumer progress)
      throws IOException {
    long there = size(target);
    if (file.size() >= 0 && there > file.size()) {
      Files.delete(target);
      there = 0;
    }
    if (there > 0 && there == file.size()) {
      return true;
    }
    HttpResponse<InputStream> response = answered(name, uri, there);
    boolean resumed = response.statusCode() == 206;
    try (InputStream body = new PatientStream(response.body(), patience);
        OutputStream out =
            Files.newOutputStream(
                target,
                StandardOpenOption.CREATE,
                resumed ? StandardOpenOption.APPEND : StandardOpenOption.TRUNCATE_EXISTING)) {
      byte[] buffer = new byte[1 << 16];
      long done = resumed ? there : 0;
      for (int n = body.read(buffer); n >= 0; n = body.read(buffer)) {
        done += n;
        if (file.size() >= 0 && done > file.size()) {
          throw new InputException(
              "%s: %s is longer than the Hub says".formatted(name, file.path()));
        }
        out.write(buffer, 0, n);
        progress.accept(done);
      }
      return file.size() < 0 || done == file.size();
    }
  }

  /**
   * Waits for an answer that is neither an error nor a redirect. Requests are repeated if that may
   * help.
   */
  private HttpResponse<InputStream> answered(HubName name, URI uri, long from) {
    for (int attempt = 1; ; attempt++) {
      try {
        HttpResponse<InputStream> response = followed(uri, from);
        int status = response.statusCode();
        if (status == 200 || status == 206) {
          return response;
        }
        response.body().close();
        boolean passing = status == 429 || status >= 500;
        if (!passing || attempt == ATTEMPTS) {
          throw refused(name, status, response.headers().firstValue("X-Error-Code").orElse(""));
        }
      } catch (IOException e) {
        if (attempt == ATTEMPTS) {
          throw unreachable(name, e);
        }
      }
      sleep(attempt);
    }
  }

  private HttpResponse<InputStream> followed(URI uri, long from) throws IOException {
    URI at = uri;
    for (int i = 0; i <= REDIRECTS; i++) {
      HttpRequest.Builder request = HttpRequest.newBuilder(at).header("User-Agent", "espalier");
      if (from > 0) {
        request.header("Range", "bytes=" + from + "-");
      }
      if (isOfEndpoint(at)) {
        token.ifPresent(t -> request.header("Authorization", "Bearer " + t));
      }
      HttpResponse<InputStream> response = send(request.build());
      if (response.statusCode() < 300 || response.statusCode() >= 400) {
        return response;
      }
      response.body().close();
      String location =
          response
              .headers()
              .firstValue("Location")
              .orElseThrow(() -> new IOException("a redirect to nowhere"));
      try {
        at = at.resolve(location);
      } catch (IllegalArgumentException e) {
        throw new IOException("a redirect to " + location);
      }
      if (at.getHost() == null) {
        throw new IOException("a redirect to nowhere");
      }
      if (!"https".equals(at.getScheme()) && !at.getScheme().equals(uri.getScheme())) {
        throw new IOException("a redirect from https to " + at.getScheme());
      }
    }
    throw new IOException("more than " + REDIRECTS + " redirects");
  }

  /**
   * Waits for the head of an answer. It does not use the request's own timeout, which from JDK 26
   * on covers the whole body, and a large file takes long.
   */
  private HttpResponse<InputStream> send(HttpRequest request) throws IOException {
    CompletableFuture<HttpResponse<InputStream>> answer =
        http.sendAsync(request, HttpResponse.BodyHandlers.ofInputStream());
    try {
      return answer.get(patience.toMillis(), TimeUnit.MILLISECONDS);
    } catch (TimeoutException e) {
      answer.cancel(true);
      throw new IOException("no answer for %.3g s".formatted(patience.toMillis() / 1e3));
    } catch (ExecutionException e) {
      throw e.getCause() instanceof IOException fault ? fault : new IOException(e.getCause());
    } catch (InterruptedException e) {
      answer.cancel(true);
      Thread.currentThread().interrupt();
      throw new InputException("interrupted while downloading");
    }
  }

  /** Whether a URI is on the endpoint's host. The token is for this host only. */
  private boolean isOfEndpoint(URI uri) {
    return endpoint.getScheme().equals(uri.getScheme())
        && endpoint.getHost().equalsIgnoreCase(uri.getHost())
        && endpoint.getPort() == uri.getPort();
  }

  private InputException refused(HubName name, int status, String code) {
    String host = endpoint.getHost();
    if (code.equals("GatedRepo") || (status == 403 && code.isEmpty())) {
      return new InputException(
          "%s: the repository is gated: ask for access at %s/%s and set HF_TOKEN"
              .formatted(
                  name, endpoint.toString().replaceFirst("//[^/]*@", "//"), name.repository()));
    }
    if (code.equals("RevisionNotFound")) {
      return new InputException(name + ": the repository has no revision " + name.revision());
    }
    if (code.equals("EntryNotFound")) {
      return new InputException(name + ": the repository has no such file");
    }
    if (status == 401 || status == 404) {
      return new InputException(
          "%s: is no file or folder here, and %s has no repository %s that %s may see"
              .formatted(
                  name, host, name.repository(), token.isPresent() ? "this token" : "everybody"));
    }
    return new InputException("%s: %s answers with status %d".formatted(name, host, status));
  }

  private InputException unreachable(HubName name, IOException e) {
    return new InputException(
        "%s: is no file or folder here, and %s cannot be reached (%s)"
            .formatted(
                name,
                endpoint.getHost(),
                e.getMessage() == null ? e.getClass().getSimpleName() : e.getMessage()));
  }

  private void sleep(int attempt) {
    try {
      Thread.sleep(pause.multipliedBy(1L << (attempt - 1)));
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
      throw new InputException("interrupted while downloading");
    }
  }

  private URI at(String path) {
    return URI.create(endpoint + path);
  }

  private static String encoded(String part) {
    return URLEncoder.encode(part, StandardCharsets.UTF_8).replace("+", "%20");
  }
}
