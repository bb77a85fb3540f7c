package espalier.hub;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/** Speaks the Hub's routes for one repository, and misbehaves as told. */
final class HubServer implements AutoCloseable {

  static final String REPOSITORY = "owner/small-model";
  static final String COMMIT = "0123456789abcdef0123456789abcdef01234567";

  /** Content by path; those longer than 64 bytes are large files. */
  final Map<String, byte[]> files = new TreeMap<>();

  /** What a request was for, with its token, in order. */
  final List<String> requests = Collections.synchronizedList(new ArrayList<>());

  final Map<String, String> refs = new HashMap<>(Map.of("main", COMMIT, COMMIT, COMMIT));

  /** How many times a file is to be cut off in the middle. */
  final Map<String, Integer> cuts = new HashMap<>();

  /** How many times a file is to stall in the middle, its connection open. */
  final Map<String, Integer> stalls = new ConcurrentHashMap<>();

  /** Whether requests are answered at all. */
  boolean silent;

  /** Files of which other bytes come than are listed. */
  final Map<String, byte[]> damaged = new HashMap<>();

  /** Files that cannot be had for now. */
  final Set<String> failing = new HashSet<>();

  /** Where a file's content really is, another server; null for here. */
  URI elsewhere;

  /** Status and X-Error-Code of every answer; null where nothing is wrong. */
  Integer status;

  String error = "";
  String token;
  boolean ranges = true;
  private final HttpServer server;

  /** Stalled connections must not keep others waiting. */
  private final ExecutorService threads = Executors.newVirtualThreadPerTaskExecutor();

  private final CountDownLatch closed = new CountDownLatch(1);

  HubServer() throws IOException {
    server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.createContext("/", this::answer);
    server.setExecutor(threads);
    server.start();
  }

  URI uri() {
    return URI.create("http://localhost:" + server.getAddress().getPort());
  }

  private void answer(HttpExchange exchange) throws IOException {
    try (exchange) {
      String path = exchange.getRequestURI().getPath();
      String given = exchange.getRequestHeaders().getFirst("Authorization");
      String range = exchange.getRequestHeaders().getFirst("Range");
      requests.add(path + (given == null ? "" : " " + given) + (range == null ? "" : " " + range));
      if (silent) {
        awaitClose();
      }
      if (status != null) {
        exchange.getResponseHeaders().add("X-Error-Code", error);
        exchange.sendResponseHeaders(status, -1);
        return;
      }
      if (token != null && !("Bearer " + token).equals(given)) {
        exchange.getResponseHeaders().add("X-Error-Code", "GatedRepo");
        exchange.sendResponseHeaders(401, -1);
        return;
      }
      String api = "/api/models/" + REPOSITORY + "/revision/";
      String resolve = "/" + REPOSITORY + "/resolve/" + COMMIT + "/";
      if (path.startsWith(api) && refs.containsKey(path.substring(api.length()))) {
        send(exchange, 200, listing().toString().getBytes(StandardCharsets.UTF_8));
      } else if (path.startsWith(resolve) && files.containsKey(path.substring(resolve.length()))) {
        file(exchange, path.substring(resolve.length()), range);
      } else {
        boolean revision = path.startsWith(api);
        exchange
            .getResponseHeaders()
            .add("X-Error-Code", revision ? "RevisionNotFound" : "RepoNotFound");
        exchange.sendResponseHeaders(404, -1);
      }
    }
  }

  private void file(HttpExchange exchange, String path, String range) throws IOException {
    if (elsewhere != null) {
      exchange.getResponseHeaders().add("Location", elsewhere + exchange.getRequestURI().getPath());
      exchange.sendResponseHeaders(302, -1);
      return;
    }
    if (failing.contains(path)) {
      exchange.sendResponseHeaders(503, -1);
      return;
    }
    byte[] content = damaged.getOrDefault(path, files.get(path));
    int from = 0;
    if (range != null && ranges) {
      from = Integer.parseInt(range.substring("bytes=".length(), range.length() - 1));
    }
    byte[] rest = Arrays.copyOfRange(content, from, content.length);
    if (stalls.merge(path, -1, Integer::sum) >= 0) {
      exchange.sendResponseHeaders(from > 0 ? 206 : 200, rest.length);
      exchange.getResponseBody().write(rest, 0, rest.length / 2);
      exchange.getResponseBody().flush();
      awaitClose();
    }
    if (cuts.merge(path, -1, Integer::sum) >= 0) {
      exchange.sendResponseHeaders(from > 0 ? 206 : 200, rest.length);
      exchange.getResponseBody().write(rest, 0, rest.length / 2);
      exchange.getResponseBody().flush();
      return; // closed before its end
    }
    send(exchange, from > 0 ? 206 : 200, rest);
  }

  private void awaitClose() {
    try {
      closed.await();
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  private static void send(HttpExchange exchange, int status, byte[] body) throws IOException {
    exchange.sendResponseHeaders(status, body.length == 0 ? -1 : body.length);
    exchange.getResponseBody().write(body);
  }

  private ObjectNode listing() {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("id", REPOSITORY).put("sha", COMMIT);
    var siblings = json.putArray("siblings");
    files.forEach(
        (path, content) -> {
          ObjectNode file = siblings.addObject().put("rfilename", path);
          file.put("size", content.length).put("blobId", gitSum(content));
          if (content.length > 64) {
            file.putObject("lfs")
                .put("sha256", sum("SHA-256", content))
                .put("size", content.length);
          }
        });
    return json;
  }

  static String gitSum(byte[] content) {
    byte[] head = ("blob " + content.length + "\0").getBytes(StandardCharsets.US_ASCII);
    byte[] all = Arrays.copyOf(head, head.length + content.length);
    System.arraycopy(content, 0, all, head.length, content.length);
    return sum("SHA-1", all);
  }

  static String sum(String algorithm, byte[] content) {
    try {
      return HexFormat.of().formatHex(MessageDigest.getInstance(algorithm).digest(content));
    } catch (NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }

  /** Requests of files, without the listing. */
  Map<String, Integer> downloads() {
    Map<String, Integer> counts = new LinkedHashMap<>();
    for (String request : requests) {
      int at = request.indexOf("/resolve/" + COMMIT + "/");
      if (at >= 0) {
        counts.merge(request.substring(at + 10 + COMMIT.length()).split(" ")[0], 1, Integer::sum);
      }
    }
    return counts;
  }

  @Override
  public void close() {
    closed.countDown();
    server.stop(0);
    threads.close();
  }
}
