import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.HexFormat;

/** {@code java Download.java URL FILE SHA256}: for mvnw, which must not rely on curl or wget. */
class Download {
  public static void main(String[] args) throws Exception {
    HttpClient client =
        HttpClient.newBuilder()
            .connectTimeout(Duration.ofSeconds(5))
            .followRedirects(HttpClient.Redirect.NORMAL)
            .build();
    HttpRequest request =
        HttpRequest.newBuilder(URI.create(args[0])).timeout(Duration.ofMinutes(5)).build();
    HttpResponse<byte[]> response = client.send(request, HttpResponse.BodyHandlers.ofByteArray());
    byte[] digest = MessageDigest.getInstance("SHA-256").digest(response.body());
    if (response.statusCode() != 200 || !HexFormat.of().formatHex(digest).equals(args[2])) {
      System.exit(1);
    }
    Files.write(Path.of(args[1]), response.body());
  }
}
