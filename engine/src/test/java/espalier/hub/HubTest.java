package espalier.hub;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.format.InputException;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class HubTest {

  private static final String MODEL = HubServer.REPOSITORY;

  @TempDir Path cache;
  private HubServer server;
  private final byte[] weights = new byte[200_000];

  @BeforeEach
  void start() throws IOException {
    server = new HubServer();
    new Random(5).nextBytes(weights);
    put("config.json", "{}");
    put("tokenizer.json", "{\"a\": 1}");
    put("README.md", "not needed");
    put("pytorch_model.bin", "never");
    server.files.put("model.safetensors", weights);
  }

  @AfterEach
  void stop() {
    server.close();
  }

  private void put(String path, String content) {
    server.files.put(path, content.getBytes(StandardCharsets.UTF_8));
  }

  private Hub hub(String token, boolean offline) {
    return hub(token, offline, Duration.ofSeconds(30));
  }

  private Hub hub(String token, boolean offline, Duration patience) {
    return new Hub(
        new HubSettings(
            cache,
            () -> new HubAddress(server.uri(), Optional.empty()),
            Optional.ofNullable(token),
            offline),
        (file, bytes) ->
            new Hub.Progress.Bar() {
              @Override
              public void accept(long done) {
                assertTrue(done <= bytes);
              }

              @Override
              public void close() {}
            },
        Duration.ofMillis(1),
        patience);
  }

  private Path locate(String name, HubContent content) {
    return hub(null, false).locate(Path.of(name), content);
  }

  private void assertRefused(Hub hub, String name, HubContent content, String... parts) {
    InputException e = assertThrows(InputException.class, () -> hub.locate(Path.of(name), content));
    for (String part : parts) {
      assertTrue(e.getMessage().contains(part), e.getMessage());
    }
    assertFalse(e.getMessage().contains("\n"));
  }

  @Test
  void downloadsWhatAModelNeeds() throws IOException {
    Path model = locate(MODEL, HubContent.MODEL);
    assertArrayEquals(weights, Files.readAllBytes(model.resolve("model.safetensors")));
    assertEquals("{}", Files.readString(model.resolve("config.json")));
    assertEquals(
        Set.of("config.json", "tokenizer.json", "model.safetensors"), server.downloads().keySet());
    Path folder = cache.resolve("models--owner--small-model");
    assertEquals(folder.resolve("snapshots").resolve(HubServer.COMMIT), model);
    assertEquals(HubServer.COMMIT, Files.readString(folder.resolve("refs/main")));
    Path link = Files.readSymbolicLink(model.resolve("model.safetensors"));
    assertEquals(Path.of("../../blobs", HubServer.sum("SHA-256", weights)), link);
    Path small = Files.readSymbolicLink(model.resolve("config.json"));
    assertEquals(HubServer.gitSum(new byte[] {'{', '}'}), small.getFileName().toString());
  }

  @Test
  void asksNobodyForWhatIsThere() {
    Path first = locate(MODEL, HubContent.MODEL);
    server.requests.clear();
    assertEquals(first, locate(MODEL, HubContent.MODEL));
    assertEquals(first, hub(null, true).locate(Path.of(MODEL), HubContent.MODEL));
    assertEquals(
        first, locate(MODEL + "@" + HubServer.COMMIT, HubContent.MODEL), "the commit itself");
    assertEquals(List.of(), server.requests);
  }

  @Test
  void completesASnapshotThatLacksFiles() throws IOException {
    Path model = locate(MODEL, HubContent.MODEL);
    Files.delete(model.resolve("tokenizer.json"));
    server.requests.clear();
    assertEquals(model, locate(MODEL, HubContent.MODEL));
    assertTrue(Files.exists(model.resolve("tokenizer.json")));
    assertEquals(Map.of(), server.downloads(), "its blob was there");
  }

  @Test
  void downloadsTheShardsOfAnIndex() throws IOException {
    server.files.remove("model.safetensors");
    put(
        "model.safetensors.index.json",
        "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\"}}");
    server.files.put("model-1.safetensors", weights);
    put("model-2.safetensors", "two");
    put("model-3.safetensors", "not named");
    Path model = locate(MODEL, HubContent.MODEL);
    assertArrayEquals(weights, Files.readAllBytes(model.resolve("model-1.safetensors")));
    assertTrue(Files.exists(model.resolve("model-2.safetensors")));
    assertFalse(Files.exists(model.resolve("model-3.safetensors")));
    server.requests.clear();
    locate(MODEL, HubContent.MODEL);
    assertEquals(List.of(), server.requests);
    put("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"model-9.safetensors\"}}");
    Files.walk(cache).sorted(Comparator.reverseOrder()).forEach(HubTest::delete);
    assertRefused(hub(null, false), MODEL, HubContent.MODEL, "lacks shards");
  }

  private static void delete(Path path) {
    try {
      Files.delete(path);
    } catch (IOException e) {
      throw new AssertionError(e);
    }
  }

  @ParameterizedTest
  @CsvSource({
    "layer_12/width_16k/average_l0_82, params.npz",
    "blocks.3/, sae_weights.safetensors",
    "L3R, checkpoints/final.safetensors"
  })
  void downloadsAnSaeFromItsFolder(String folder, String file) throws IOException {
    String in = folder.replaceFirst("/$", "");
    server.files.put(in + "/" + file, weights);
    put(in + "/cfg.json", "{}");
    put(in + "/big.safetensors", "not needed");
    put("other/params.npz", "not needed");
    Path sae = locate(MODEL + "/" + folder, HubContent.SAE);
    assertTrue(sae.endsWith(in), sae.toString());
    assertArrayEquals(weights, Files.readAllBytes(sae.resolve(file)));
    assertEquals(Set.of(in + "/" + file, in + "/cfg.json"), server.downloads().keySet());
  }

  /** Weights, the configuration they need, and what is named. */
  private static final String SAES =
      """
      x/sae_weights.safetensors,       x/cfg.json,         x
      x/sae_weights.safetensors,       x/config.json,      x
      x/sae.safetensors,               x/cfg.json,         x/sae.safetensors
      x/checkpoints/final.safetensors, x/hyperparams.json, x
      x/checkpoints/final.safetensors, x/hyperparams.json, x/checkpoints/final.safetensors
      x/params.safetensors,            x/config.json,      x
      x/ae.pt,                         x/config.json,      x
      x/checkpoints/ae_500.pt,         x/config.json,      x/checkpoints/ae_500.pt
      """;

  @ParameterizedTest
  @CsvSource(textBlock = SAES)
  void anSaeIsThereWithItsConfigurationOnly(String file, String configuration, String name) {
    server.files.put(file, weights);
    put(configuration, "{\"of\": \"an SAE\"}");
    locate(MODEL, HubContent.MODEL); // leaves the branch's commit in the cache
    server.failing.add(configuration);
    assertRefused(hub(null, false), MODEL + "/" + name, HubContent.SAE, "status 503");
    assertFalse(server.downloads().containsKey(file), "weights would seem to be all");
    server.failing.clear();
    Path sae = locate(MODEL + "/" + name, HubContent.SAE);
    assertEquals(Set.of(file, configuration), linked("x"));
    server.requests.clear();
    assertEquals(sae, locate(MODEL + "/" + name, HubContent.ANY));
    assertEquals(List.of(), server.requests);
  }

  /** As a download that broke off left it: with the weights first. */
  @ParameterizedTest
  @CsvSource(textBlock = SAES)
  void completesAnSaeWithoutItsConfiguration(String file, String configuration, String name)
      throws IOException {
    server.files.put(file, weights);
    put(configuration, "{\"of\": \"an SAE\"}");
    Path snapshot = locate(MODEL, HubContent.MODEL);
    locate(MODEL + "/" + name, HubContent.SAE);
    Files.delete(snapshot.resolve(configuration));
    boolean readable = file.matches(".*(params.safetensors|[.]pt)");
    if (readable) {
      assertEquals(
          snapshot.resolve(name), hub(null, true).locate(Path.of(MODEL, name), HubContent.SAE));
    } else {
      String expected = file.contains("sae_weights") ? "x/cfg.json" : configuration;
      assertRefused(
          hub(null, true),
          MODEL + "/" + name,
          HubContent.SAE,
          "has weights, but no " + expected + " for them,",
          cache.toString(),
          "HF_HUB_OFFLINE");
    }
    locate(MODEL + "/" + name, HubContent.SAE);
    assertEquals(Set.of(file, configuration), linked("x"));
  }

  @ParameterizedTest
  @ValueSource(strings = {"params.npz", "params.safetensors", "ae.pt", "sae.safetensors"})
  void asksOnceForAConfigurationThatThereIsNot(String file) throws IOException {
    server.files.put("x/" + file, weights);
    Path sae = locate(MODEL + "/x", HubContent.SAE);
    server.requests.clear();
    assertEquals(sae, locate(MODEL + "/x", HubContent.SAE));
    assertEquals(List.of(), server.requests);
    if (file.equals("ae.pt")) { // where huggingface_hub looks, too
      Path marks = cache.resolve("models--owner--small-model/.no_exist").resolve(HubServer.COMMIT);
      assertTrue(Files.exists(marks.resolve("x/config.json")));
    }
  }

  @Test
  void asksOnceForATokenizerThatThereIsNot() {
    server.files.remove("tokenizer.json");
    locate(MODEL, HubContent.MODEL);
    server.requests.clear();
    locate(MODEL, HubContent.MODEL);
    assertEquals(List.of(), server.requests);
  }

  /** It may say that there is no BOS, so a model without it is packed otherwise. */
  @Test
  void completesATokenizerWithoutItsConfiguration() throws IOException {
    put("tokenizer_config.json", "{\"bos_token\": null}");
    Path file = locate(MODEL, HubContent.MODEL).resolve("tokenizer_config.json");
    Files.delete(file); // as where only the other file was asked for
    locate(MODEL, HubContent.MODEL);
    assertTrue(Files.exists(file));
  }

  /** What of a folder of the repository is in the snapshot. */
  private Set<String> linked(String folder) {
    Path snapshot = cache.resolve("models--owner--small-model/snapshots").resolve(HubServer.COMMIT);
    try (Stream<Path> all = Files.walk(snapshot.resolve(folder))) {
      return all.filter(Files::isRegularFile)
          .map(file -> snapshot.relativize(file).toString())
          .collect(Collectors.toSet());
    } catch (IOException e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void aFileOfARepositoryMayBeNamed() throws IOException {
    put("trainer_0/config.json", "{}");
    server.files.put("trainer_0/checkpoints/ae_500.pt", weights);
    Path file = locate(MODEL + "/trainer_0/checkpoints/ae_500.pt", HubContent.SAE);
    assertArrayEquals(weights, Files.readAllBytes(file));
    assertTrue(Files.exists(file.resolveSibling("../config.json")));
  }

  @Test
  void findsOutWhatARepositoryHolds() {
    assertTrue(Files.exists(locate(MODEL, HubContent.ANY).resolve("config.json")));
    put("sae/sae.safetensors", "x");
    assertTrue(Files.exists(locate(MODEL + "/sae", HubContent.ANY).resolve("sae.safetensors")));
    put("adapter_config.json", "{}");
    put("adapter_model.safetensors", "y");
    Path adapter = locate(MODEL, HubContent.ADAPTER);
    assertTrue(Files.exists(adapter.resolve("adapter_model.safetensors")));
  }

  @Test
  void goesOnAfterACutConnection() throws IOException {
    server.cuts.put("model.safetensors", 3);
    Path model = locate(MODEL, HubContent.MODEL);
    assertArrayEquals(weights, Files.readAllBytes(model.resolve("model.safetensors")));
    assertEquals(4, server.downloads().get("model.safetensors"));
    assertEquals(3, server.requests.stream().filter(r -> r.contains("bytes=")).count());
  }

  @Test
  void goesOnAfterAStall() throws IOException {
    server.stalls.put("model.safetensors", 2);
    Path model = hub(null, false, Duration.ofMillis(300)).locate(Path.of(MODEL), HubContent.MODEL);
    assertArrayEquals(weights, Files.readAllBytes(model.resolve("model.safetensors")));
    assertEquals(3, server.downloads().get("model.safetensors"));
    assertEquals(2, server.requests.stream().filter(r -> r.contains("bytes=")).count());
  }

  @Test
  void doesNotWaitForEver() {
    Hub hasty = hub(null, false, Duration.ofMillis(300));
    server.stalls.put("model.safetensors", 100);
    server.files.put("model.safetensors", new byte[4]); // of which one does not come at last
    assertRefused(hasty, MODEL, HubContent.MODEL, "broke off at", "no byte came for 0.300 s");
    server.silent = true;
    assertRefused(hasty, MODEL, HubContent.MODEL, "cannot be reached", "no answer for 0.300 s");
  }

  @Test
  void beginsAgainWhereAServerCannotGoOn() throws IOException {
    server.cuts.put("model.safetensors", 1);
    server.ranges = false;
    Path model = locate(MODEL, HubContent.MODEL);
    assertArrayEquals(weights, Files.readAllBytes(model.resolve("model.safetensors")));
  }

  @Test
  void whatWasBegunInAnotherRunIsGoneOnWith() throws IOException {
    server.cuts.put("model.safetensors", 100);
    assertRefused(
        hub(null, false), MODEL, HubContent.MODEL, MODEL, "model.safetensors broke off at");
    server.cuts.clear();
    server.requests.clear();
    Path model = locate(MODEL, HubContent.MODEL);
    assertArrayEquals(weights, Files.readAllBytes(model.resolve("model.safetensors")));
    assertTrue(server.requests.stream().anyMatch(r -> r.contains("bytes=")), "not from the start");
  }

  @Test
  void refusesDamagedFilesAndForgetsThem() throws IOException {
    byte[] other = weights.clone();
    other[777] ^= 1;
    server.damaged.put("model.safetensors", other);
    assertRefused(
        hub(null, false), MODEL, HubContent.MODEL, "model.safetensors arrived damaged", "checksum");
    server.damaged.put("model.safetensors", Arrays.copyOf(weights, 300_000));
    assertRefused(hub(null, false), MODEL, HubContent.MODEL, "longer than the Hub says");
    server.damaged.clear();
    Path model = locate(MODEL, HubContent.MODEL);
    assertArrayEquals(weights, Files.readAllBytes(model.resolve("model.safetensors")));
  }

  @Test
  void theTokenGoesToTheHubAlone() throws IOException {
    try (HubServer other = new HubServer()) {
      other.files.putAll(server.files);
      server.token = "secret";
      server.elsewhere = other.uri();
      Path model = hub("secret", false).locate(Path.of(MODEL), HubContent.MODEL);
      assertArrayEquals(weights, Files.readAllBytes(model.resolve("model.safetensors")));
      assertTrue(server.requests.stream().allMatch(r -> r.contains("Bearer secret")));
      assertFalse(other.requests.isEmpty());
      assertTrue(other.requests.stream().noneMatch(r -> r.contains("Bearer")), "" + other.requests);
    }
  }

  @Test
  void saysThatARepositoryIsGated() {
    server.token = "secret";
    assertRefused(hub(null, false), MODEL, HubContent.MODEL, MODEL, "gated", "HF_TOKEN");
    assertRefused(hub("other", false), MODEL, HubContent.MODEL, "gated");
  }

  @Test
  void saysWhatIsNotThere() {
    assertRefused(
        hub(null, false), "owner/nothing", HubContent.MODEL, "owner/nothing", "no repository");
    assertRefused(
        hub(null, false), MODEL + "@v9", HubContent.MODEL, "no revision v9", MODEL + "@v9");
    assertRefused(hub(null, false), MODEL + "/sae", HubContent.SAE, "no SAE there");
    assertRefused(hub(null, false), MODEL, HubContent.ADAPTER, "no PEFT adapter in safetensors");
    server.files.remove("model.safetensors");
    assertRefused(hub(null, false), MODEL, HubContent.MODEL, "no model in safetensors");
  }

  @Test
  void failsAfterAFewAttempts() {
    server.status = 503;
    assertRefused(hub(null, false), MODEL, HubContent.MODEL, "answers with status 503");
    assertEquals(5, server.requests.size());
    server.close();
    assertRefused(
        hub(null, false),
        MODEL,
        HubContent.MODEL,
        "is no file or folder here",
        "cannot be reached");
  }

  @Test
  void offlineMeansOffline() {
    assertRefused(hub(null, true), MODEL, HubContent.MODEL, "HF_HUB_OFFLINE", cache.toString());
    assertEquals(List.of(), server.requests);
  }

  @ParameterizedTest
  @ValueSource(strings = {"../../../etc/passwd", "/etc/passwd", "a//b", "a/./b", "a\\b"})
  void aListingMayNotLeadOutOfTheCache(String path) {
    put(path, "x");
    assertRefused(hub(null, false), MODEL, HubContent.MODEL, "leads elsewhere");
  }

  @Test
  void whatIsHereIsTaken() throws IOException {
    Path here = Files.createDirectories(cache.resolve("a/b"));
    assertEquals(here, hub(null, false).locate(here, HubContent.MODEL));
    for (String local : List.of("nowhere", "./a/b", "../a/b", "/a/b", "~/a/b", "")) {
      assertEquals(Path.of(local), locate(local, HubContent.MODEL));
    }
    assertEquals(List.of(), server.requests);
  }

  @Test
  void readsTheEnvironmentAsTheHubsLibraryDoes() throws IOException {
    HubSettings plain = HubSettings.of(Map.of("HOME", "/home/me"));
    assertEquals(Path.of("/home/me/.cache/huggingface/hub"), plain.cache());
    assertEquals("https://huggingface.co", plain.address().get().endpoint().toString());
    assertEquals(Optional.empty(), plain.token());
    assertFalse(plain.offline());
    Files.writeString(cache.resolve("token"), "from-file\n");
    HubSettings set =
        HubSettings.of(
            Map.of("HF_HOME", cache.toString(), "HF_HUB_OFFLINE", "1", "HF_ENDPOINT", "http://h/"));
    assertEquals(cache.resolve("hub"), set.cache());
    assertEquals("http://h", set.address().get().endpoint().toString());
    assertEquals(Optional.of("from-file"), set.token());
    assertTrue(set.offline());
    HubSettings more = HubSettings.of(Map.of("HF_HUB_CACHE", "/c", "HF_TOKEN", " t "));
    assertEquals(Path.of("/c"), more.cache());
    assertEquals(Optional.of("t"), more.token());
    HubSettings unset =
        HubSettings.of(Map.of("HF_HOME", cache.toString(), "HF_TOKEN", "", "HF_HUB_CACHE", "/c"));
    assertEquals(Optional.of("from-file"), unset.token());
  }

  /** What {@code python -c "from huggingface_hub.constants import *; print(HF_HUB_CACHE)"} says. */
  @ParameterizedTest
  @CsvSource({
    "HF_HOME, ~/hf, /home/me/hf/hub",
    "HF_HOME, ~, /home/me/hub",
    "HF_HOME, $SCRATCH/hf, /scratch/$me/hf/hub",
    "HF_HUB_CACHE, ${SCRATCH}/hf, /scratch/$me/hf",
    "HF_HUB_CACHE, $ABSENT/~/x, $ABSENT/~/x",
    "HF_HUB_CACHE, ~me/x, ~me/x",
    "XDG_CACHE_HOME, $SCRATCH, /scratch/$me/huggingface/hub",
  })
  void expandsPathsAsTheHubsLibraryDoes(String variable, String given, String expected) {
    Map<String, String> environment =
        Map.of("HOME", "/home/me", "SCRATCH", "/scratch/$me", variable, given);
    assertEquals(Path.of(expected), HubSettings.of(environment).cache());
  }

  @Test
  void goesThroughAProxyWhereThereIsOne() {
    Map<String, String> proxied =
        Map.of("HTTPS_PROXY", "http://proxy.site:3128/", "HF_ENDPOINT", "https://hub.site.org");
    InetSocketAddress proxy = HubAddress.of(proxied).proxy().orElseThrow();
    assertEquals("proxy.site", proxy.getHostString());
    assertEquals(3128, proxy.getPort());
    assertEquals(Optional.empty(), HubAddress.of(Map.of("http_proxy", "p:1")).proxy());
    for (String exempt : List.of("site.org", ".site.org", "other, hub.site.org", "*.site.org")) {
      Map<String, String> direct = new HashMap<>(proxied);
      direct.put("no_proxy", exempt);
      assertEquals(Optional.empty(), HubAddress.of(direct).proxy(), exempt);
    }
  }

  @ParameterizedTest
  @CsvSource({
    "proxy, proxy, 80",
    "proxy:3128, proxy, 3128",
    "https://u:s^cr@t@10.0.0.1:99/, 10.0.0.1, 99",
    "http://[::1]:8080, [::1], 8080"
  })
  void aProxyMayHaveAUserWhoIsPassedOver(String given, String host, int port) {
    InetSocketAddress proxy = HubAddress.of(Map.of("https_proxy", given)).proxy().orElseThrow();
    assertEquals(host, proxy.getHostString());
    assertEquals(port, proxy.getPort());
  }

  @ParameterizedTest
  @CsvSource({
    "HTTPS_PROXY, http://my_secret:3128",
    "HTTPS_PROXY, http://u:secret@:3128",
    "https_proxy, http://u:secret@two words",
    "HTTPS_PROXY, u:secret@proxy:99999",
    "HTTPS_PROXY, u:secret@proxy:port",
    "HF_ENDPOINT, secret.com",
    "HF_ENDPOINT, https://u:secret@",
    "HF_ENDPOINT, https://my_secret.com",
    "HF_ENDPOINT, https://se cret.com",
    "HF_ENDPOINT, ftp://secret.com",
    "HF_ENDPOINT, ''"
  })
  void anAddressThatIsNoneMattersWhereTheHubIsAsked(String variable, String value)
      throws IOException {
    Map<String, String> environment =
        Map.of(variable, value, "NO_PROXY", "x", "HF_HOME", cache.toString());
    Hub hub = new Hub(HubSettings.of(environment), (file, bytes) -> null);
    Path here = Files.createDirectories(cache.resolve("here"));
    assertEquals(here, hub.locate(here, HubContent.SAE));
    InputException e =
        assertThrows(InputException.class, () -> hub.locate(Path.of(MODEL), HubContent.MODEL));
    assertTrue(e.getMessage().startsWith(variable + " is no address"), e.getMessage());
    assertFalse(e.getMessage().contains("cret"), e.getMessage());
  }

  /** Whose lock does not keep others out. */
  @Test
  void leavesAloneWhatHuggingfaceHubHasNotFinished() throws IOException {
    Path blobs = Files.createDirectories(cache.resolve("models--owner--small-model/blobs"));
    Path theirs = blobs.resolve(HubServer.sum("SHA-256", weights) + ".incomplete");
    Files.writeString(theirs, "half of it");
    Path model = locate(MODEL, HubContent.MODEL);
    assertArrayEquals(weights, Files.readAllBytes(model.resolve("model.safetensors")));
    assertEquals("half of it", Files.readString(theirs));
  }

  @Test
  void leavesNothingUnfinished() throws IOException {
    locate(MODEL, HubContent.MODEL);
    try (Stream<Path> all = Files.walk(cache)) {
      assertTrue(all.noneMatch(p -> p.toString().matches(".*(\\.incomplete|\\.tmp\\d*)")));
    }
  }
}
