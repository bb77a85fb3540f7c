package espalier.cli;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import espalier.device.Device;
import espalier.format.SaeLensWriter;
import espalier.format.SaeWeights.Activation;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** SAEs are applied where their files say, in models whose heads are wider than the stream. */
class SaeSitesTest {

  private static final int HIDDEN = 16;
  private static final int HEADS = 24;
  private static final Path SAES = Path.of("src/test/resources/sae");

  @TempDir private Path temp;

  private static Path family(String name) {
    return Path.of("src/test/resources/families", name);
  }

  /** y = gain x: latents are the positive and the negative part of each element. */
  private Path sae(String hook, int width, float gain) {
    Path folder = temp.resolve(hook + " times " + gain);
    try (Device device = Device.open()) {
      Tensor wEnc = zeros(device, width, 2 * width);
      Tensor wDec = zeros(device, 2 * width, width);
      for (int i = 0; i < width; i++) {
        wEnc.set(i, i, 1);
        wEnc.set(i, width + i, -1);
        wDec.set(i, i, gain);
        wDec.set(width + i, i, -gain);
      }
      SaeLensWriter.write(
          folder,
          new SaeLensWriter.Output(
              Activation.RELU,
              wEnc,
              zeros(device, 1, 2 * width),
              wDec,
              zeros(device, 1, width),
              null,
              null,
              0,
              false,
              hook,
              "random",
              16,
              true));
    }
    return folder;
  }

  private static Tensor zeros(Device device, int rows, int cols) {
    Tensor tensor = Tensor.allocate(device, rows, cols);
    tensor.copyFrom(new float[rows * cols]);
    return tensor;
  }

  private static Outcome evaluate(String family, String... saes) {
    List<String> args =
        new ArrayList<>(List.of("evaluate", "--json", "--metrics", "core", "--model"));
    args.addAll(List.of(family(family).resolve("model").toString()));
    args.addAll(List.of("--data", family(family).resolve("tokens.npy").toString()));
    for (String sae : saes) {
      args.addAll(List.of("--sae", sae));
    }
    return Outcome.of(args);
  }

  private static JsonNode json(Outcome outcome) throws IOException {
    assertEquals(0, outcome.code(), outcome.err());
    return new ObjectMapper().readTree(outcome.out());
  }

  @ParameterizedTest
  @CsvSource({
    "gemma2, blocks.1.attn.hook_z, 24", "gemma2, blocks.1.hook_attn_out, 16",
    "gemma2, blocks.1.hook_mlp_out, 16", "gemma2, blocks.1.hook_resid_post, 16",
    "gemma2, model.layers.1.self_attn, 16", "gemma3_text, model.layers.1.mlp.output, 16",
    "llama, model.layers.1.self_attn.o_proj.input, 24", "llama, model.layers.1.mlp, 16",
    "gpt_neox, blocks.1.hook_attn_out, 16", "gpt2, transformer.h.1.mlp, 16"
  })
  void standsInForWhatItWasMadeFor(String family, String hook, int width) throws IOException {
    Outcome outcome = evaluate(family, "1=" + sae(hook, width, 1));
    JsonNode same = json(outcome);
    assertFalse(outcome.err().contains("WARNING"), outcome.err());
    assertEquals(same.get("ce_base").doubleValue(), same.get("ce_sae").doubleValue(), 1e-6);
    assertEquals(0, same.at("/saes/1/fvu").doubleValue(), 1e-12);
    assertEquals(width, same.at("/saes/1/l0").doubleValue(), 1e-9);

    // An SAE of zeros is what zero ablation puts in its place.
    JsonNode nothing = json(evaluate(family, "1=" + sae(hook, width, 0)));
    assertEquals(nothing.get("ce_abl").doubleValue(), nothing.get("ce_sae").doubleValue(), 1e-9);
    double harm = nothing.get("ce_sae").doubleValue() - nothing.get("ce_base").doubleValue();
    assertTrue(Math.abs(harm) > 1e-3, "the site matters: " + harm);
  }

  /** Twice as much is the same to Gemma's norm behind a module, and not to the stream. */
  @ParameterizedTest
  @CsvSource({
    "gemma2, model.layers.1.mlp, true",
    "gemma2, blocks.1.hook_mlp_out, false",
    "gemma2, model.layers.1.post_feedforward_layernorm.output, false",
    "gemma3_text, model.layers.1.self_attn, true",
    "gemma3_text, blocks.1.hook_attn_out, false",
    "llama, model.layers.1.mlp, false",
    "gpt2, transformer.h.1.attn, false"
  })
  void modulesEndBeforeTheirNorm(String family, String hook, boolean normed) throws IOException {
    JsonNode twice = json(evaluate(family, "1=" + sae(hook, HIDDEN, 2)));
    double kl = twice.get("kl_sae").doubleValue();
    assertEquals(normed, kl < 1e-6, hook + ": KL " + kl);
    assertTrue(normed || kl > 1e-3, hook + ": KL " + kl);
  }

  @Test
  void severalSitesAtOnce() throws IOException {
    JsonNode same =
        json(
            evaluate(
                "gemma2",
                "0=" + sae("blocks.0.attn.hook_z", HEADS, 1),
                "1=" + sae("blocks.1.hook_mlp_out", HIDDEN, 1),
                "2=" + sae("blocks.2.hook_resid_post", HIDDEN, 1)));
    assertEquals(same.get("ce_base").doubleValue(), same.get("ce_sae").doubleValue(), 1e-6);
    assertEquals(HEADS, same.at("/saes/0/l0").doubleValue(), 1e-9);
    assertEquals(HIDDEN, same.at("/saes/2/l0").doubleValue(), 1e-9);
  }

  @Test
  void warnsOfWhatDoesNotFit() {
    Outcome outcome = evaluate("llama", "1=" + sae("blocks.1.hook_resid_post", HIDDEN, -1));
    assertEquals(0, outcome.code(), outcome.err());
    assertTrue(
        outcome
            .err()
            .lines()
            .anyMatch(
                line ->
                    line.matches(
                        "WARNING: SAE at layer 1: FVU [4-9]\\.\\d+ on your text: it probably does"
                            + " not belong here")),
        outcome.err());
  }

  /** With no evaluation before the first step, a sample of the training data tells. */
  @ParameterizedTest
  @CsvSource({"false", "true"})
  void warnsBeforeTraining(boolean evaluates) {
    Path tokens = family("llama").resolve("tokens.npy");
    List<String> args =
        new ArrayList<>(
            List.of(
                "adapt", "--model", family("llama").resolve("model").toString(), "--steps", "1"));
    args.addAll(List.of("--sae", "1=" + sae("blocks.1.hook_attn_out", HIDDEN, -1)));
    args.addAll(List.of("--data", tokens.toString(), "--out", temp.resolve("out").toString()));
    if (evaluates) {
      args.addAll(List.of("--eval-data", tokens.toString()));
    }
    Outcome outcome = Outcome.of(args);
    assertEquals(0, outcome.code(), outcome.err());
    assertEquals(1, outcome.err().lines().filter(line -> line.contains("layer 1: FVU")).count());
  }

  private static void assertRefused(Outcome outcome, String message) {
    assertEquals(2, outcome.code(), outcome.err());
    assertEquals("", outcome.out());
    assertEquals("espalier: " + message, outcome.err().strip());
  }

  @ParameterizedTest
  @CsvSource({
    "blocks.1.hook_resid_mid, residual mid",
    "blocks.1.hook_mlp_in, mlp in",
    "blocks.0.hook_resid_pre, embedding"
  })
  void refusesOtherSites(String hook, String site) {
    Path sae = sae(hook, HIDDEN, 1);
    assertRefused(
        evaluate("llama", "1=" + sae),
        "--sae 1=%s: is for the %s (%s); SAEs can be applied only to the "
                .formatted(sae, site, hook)
            + "residual stream after a block, attention heads, attention out and MLP out");
  }

  @Test
  void refusesWhatIsNotAsWideAsItsSite() {
    Path heads = sae("blocks.1.attn.hook_z", HIDDEN, 1);
    assertRefused(
        evaluate("llama", "1=" + heads),
        "--sae 1=%s: is for activations of width 16, but the model's have 24 (blocks.1.attn.hook_z)"
            .formatted(heads));
  }

  @Test
  void refusesTranscoders() {
    Path transcoder = SAES.resolve("saelens_transcoder/sae");
    Outcome outcome = evaluate("llama", "1=" + transcoder);
    assertEquals(2, outcome.code());
    assertTrue(
        outcome.err().startsWith("espalier: --sae 1=%s: is a transcoder".formatted(transcoder)),
        outcome.err());
  }

  /** SAELens writes any hook's name; what it means must be known. */
  @Test
  void refusesUnknownHooks() throws IOException {
    Path folder = sae("blocks.1.hook_resid_post", HIDDEN, 1);
    Path cfg = folder.resolve("cfg.json");
    Files.writeString(cfg, Files.readString(cfg).replace("hook_resid_post", "hook_pattern"));
    Outcome outcome = evaluate("llama", "1=" + folder);
    assertEquals(2, outcome.code(), outcome.err());
    assertTrue(outcome.err().contains("hook_pattern"), outcome.err());
  }

  /** sparsify trains on any submodule, and names the folder after it. */
  @Test
  void refusesModulesThatAreNoPlace() throws IOException {
    Path folder = temp.resolve("layers.1.mlp.down_proj");
    Path from = SAES.resolve("sparsify_skip/sae/layers.3.mlp");
    Files.createDirectories(folder);
    for (String file : List.of("cfg.json", "sae.safetensors")) {
      Files.copy(from.resolve(file), folder.resolve(file));
    }
    assertRefused(
        evaluate("llama", "1=" + folder),
        "--sae 1=%s: hook layers.1.mlp.down_proj is not known, so there is no place to apply the SAE"
            .formatted(folder));
  }
}
