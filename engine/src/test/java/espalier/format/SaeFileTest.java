package espalier.format;

import static espalier.Refused.assertRefused;
import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.SaeWeights.Activation;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

class SaeFileTest {

  private static final String WEIGHTS = "sae_weights.safetensors";

  /** dIn 2, dSae 3. */
  private static final String SAELENS =
      """
      {"architecture": "jumprelu", "d_in": 2, "d_sae": 3, "dtype": "float32",
       "apply_b_dec_to_input": false, "normalize_activations": "none",
       "reshape_activations": "none", "metadata": {"hook_name": "blocks.5.hook_resid_post"}}
      """;

  private static final String SPARSIFY =
      """
      {"activation": "topk", "expansion_factor": 32, "num_latents": 3, "k": 2, "d_in": 2,
       "skip_connection": false, "transcode": false}
      """;

  @TempDir Path folder;

  @ParameterizedTest
  @EnumSource(
      value = Activation.class,
      names = {"RELU", "JUMPRELU", "TOPK"})
  void readsWhatItWrites(Activation activation) {
    boolean jumpRelu = activation == Activation.JUMPRELU;
    SaeLensWriter.write(
        folder.resolve("sae"),
        new SaeLensWriter.Output(
            activation,
            tensor(2, 3, 1),
            tensor(1, 3, 2),
            tensor(3, 2, 3),
            tensor(1, 2, 4),
            jumpRelu ? tensor(1, 3, 5) : null,
            null,
            activation == Activation.TOPK ? 2 : 0,
            true,
            "blocks.7.hook_resid_post",
            "small",
            128,
            true));
    StrictJson metadata =
        StrictJson.read(folder.resolve("sae/cfg.json")).object("metadata").orElseThrow();
    assertTrue(metadata.text("sae_lens_version").startsWith("6."), "else SAELens drops the rest");
    try (SaeFile file = SaeFile.open(folder.resolve("sae"))) {
      SaeWeights sae = file.weights();
      assertEquals(activation, sae.activation());
      assertEquals("SAELens 6", sae.format());
      assertEquals(2, sae.dIn());
      assertEquals(2, sae.dOut());
      assertEquals(3, sae.dSae());
      assertTrue(sae.encoder().transposed());
      assertFalse(sae.decoder().transposed());
      assertNull(sae.decoder().rowScale());
      assertEquals(Optional.of(SaeSite.residual(7)), sae.site());
      assertEquals(activation == Activation.TOPK ? 2 : 0, sae.k());
      assertEquals(1 + 5, sae.encoder().entry().value(5));
      assertEquals(3 + 4, sae.decoder().entry().value(4));
      assertArrayEquals(new float[] {2, 3, 4}, sae.bEnc());
      assertArrayEquals(new float[] {4, 5}, sae.bDec());
      assertArrayEquals(new float[] {4, 5}, sae.bPre());
      assertArrayEquals(jumpRelu ? new float[] {5, 6, 7} : null, sae.threshold());
      assertEquals(List.of(), sae.folded());
    }
  }

  @Test
  void takesTheWeightsFileForItsFolder() throws IOException {
    saeLens("{}");
    try (SaeFile file = SaeFile.open(folder.resolve(WEIGHTS))) {
      assertEquals(Optional.of(SaeSite.residual(5)), file.weights().site());
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      textBlock =
          """
          {"architecture": "abstopk"}                        | architecture is abstopk, which is not supported: latents may be negative
          {"architecture": "batchtopk"}                      | architecture is batchtopk, which is not supported: a training checkpoint
          {"architecture": "matching_pursuit"}               | architecture is matching_pursuit
          {"architecture": "transcoder"}                     | metadata.hook_name_out is ""
          {"architecture": "new"}                            | architecture is new, which is not supported
          {"architecture": 3}                                | architecture is not a string
          {"activation_fn": "tanh-relu"}                     | activation_fn is tanh-relu
          {"normalize_activations": "covariance_whitening"}  | normalize_activations is covariance_whitening
          {"normalize_activations": 3}                       | normalize_activations is not a string
          {"normalize_activations": true, "norm_scaling_factor": 0} | norm_scaling_factor is not positive
          {"finetuning_scaling_factor": true}                | finetuning_scaling_factor is true, but there are no factors
          {"hook_head_index": 2}                             | hook_head_index is set
          {"metadata": {"hook_head_index": 2}}               | hook_head_index is set
          {"d_in": null}                                     | d_in is missing
          {"d_in": 0}                                        | d_in is 0
          {"d_sae": -3}                                      | d_sae is -3
          {"architecture": "topk", "k": 4}                   | k is 4 of 3 latents
          {"architecture": "topk", "k": 0}                   | k is 0, not a positive size
          {"architecture": "topk"}                           | k is missing
          {"apply_b_dec_to_input": 1}                        | apply_b_dec_to_input is neither true nor false
          {"metadata": {"hook_name": 3}}                     | metadata.hook_name is not a string
          """)
  void refusesSaeLensConfigurations(String changes, String fault) throws IOException {
    boolean threshold = !changes.contains("\"topk\"") && !changes.contains("\"transcoder\"");
    saeLens(changes, threshold ? "threshold[3]" : "");
    assertRefused(folder.resolve("cfg.json"), () -> SaeFile.open(folder), fault);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      textBlock =
          """
          {"d_in": 3}                   | threshold[3]                   | tensor W_enc has shape [2, 3], expected [3, 3]
          {"d_sae": 4}                  | threshold[3]                   | tensor W_enc has shape [2, 3], expected [2, 4]
          {}                            |                                | tensor threshold is missing
          {}                            | threshold[2]                   | tensor threshold has shape [2], expected [3]
          {}                            | threshold[3] log_threshold[3]  | tensor log_threshold belongs to a training checkpoint
          {}                            | threshold[3] scaling_factor[3] | tensor scaling_factor is not all ones
          {"architecture": "standard"}  | threshold[3]                   | tensor threshold is not understood
          """)
  void refusesSaeLensTensors(String changes, String more, String fault) throws IOException {
    saeLens(changes, more == null ? "" : more);
    assertRefused(folder.resolve(WEIGHTS), () -> SaeFile.open(folder), fault);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      textBlock =
          """
          {"activation": "relu"}                     | activation is relu, which is not supported
          {"activation": "groupmax", "k": 2}         | k is 2 groups, which do not divide 3 latents
          {"transcode": true}                        | transcode is true, but the folder's name is no place
          {"signed": true}                           | signed is true
          {"k": 4}                                   | k is 4 of 3 latents
          {"k": null}                                | k is missing
          {"num_latents": -1}                        | num_latents is negative
          {"num_latents": 0, "expansion_factor": 0}  | expansion_factor is 0
          """)
  void refusesSparsifyConfigurations(String changes, String fault) throws IOException {
    sparsify(changes, "");
    assertRefused(folder.resolve("cfg.json"), () -> SaeFile.open(folder), fault);
  }

  /** What sparsify names after modules, and what somebody named as he liked. */
  @ParameterizedTest
  @CsvSource({
    "layers.1.mlp, layers.1.mlp, MLP_MODULE_OUT",
    "layers.1.mlp/seed0, layers.1.mlp, MLP_MODULE_OUT",
    "layers.4/seed12, layers.4, RESIDUAL",
    "layers.1.mlp.down_proj, layers.1.mlp.down_proj,",
    "h.1.mlp.c_fc/seed0, h.1.mlp.c_fc,",
    "best, '',",
    "v1.0, '',",
    "mine/seed0, '',",
    "seed0, '',"
  })
  void takesSparsifysPlaceFromItsFolder(String path, String hook, SaeSite.Kind site)
      throws IOException {
    sparsify("{}", "");
    Path target = folder.resolve(path);
    Files.createDirectories(target);
    for (String file : List.of("cfg.json", "sae.safetensors")) {
      Files.copy(folder.resolve(file), target.resolve(file));
    }
    try (SaeFile file = SaeFile.open(target)) {
      assertEquals(hook, file.weights().hook());
      assertEquals(Optional.ofNullable(site), file.weights().site().map(SaeSite::kind));
    }
  }

  @Test
  void refusesSparsifyTensors() throws IOException {
    Path file = folder.resolve("sae.safetensors");
    sparsify("{\"num_latents\": 0}", "");
    assertRefused(file, () -> SaeFile.open(folder), "encoder.weight has shape [3, 2]", "[64, 2]");
    sparsify("{}", "W_skip[2]");
    assertRefused(file, () -> SaeFile.open(folder), "tensor W_skip is not understood");
    sparsify("{\"skip_connection\": true}", "W_skip[2]");
    assertRefused(file, () -> SaeFile.open(folder), "W_skip has shape [2], expected [2, 2]");
  }

  @Test
  void refusesWhatIsNoSae() throws IOException {
    assertRefused(folder, () -> SaeFile.open(folder), "no SAE is found here");
    Path missing = folder.resolve("missing");
    assertRefused(missing, () -> SaeFile.open(missing), "no such file or folder");
    saeLens("{}");
    Files.delete(folder.resolve("cfg.json"));
    assertRefused(folder.resolve("cfg.json"), () -> SaeFile.open(folder), "no such file");
  }

  private void saeLens(String changes) throws IOException {
    saeLens(changes, "threshold[3]");
  }

  /** {@code more}: further vectors, such as "threshold[3]". */
  private void saeLens(String changes, String more) throws IOException {
    config(SAELENS, changes);
    List<Safetensors.Output> tensors =
        new ArrayList<>(
            List.of(
                Safetensors.Output.matrix("W_enc", tensor(2, 3, 1)),
                Safetensors.Output.vector("b_enc", tensor(1, 3, 1)),
                Safetensors.Output.matrix("W_dec", tensor(3, 2, 1)),
                Safetensors.Output.vector("b_dec", tensor(1, 2, 1))));
    addVectors(tensors, more);
    Safetensors.write(folder.resolve(WEIGHTS), tensors, Map.of());
  }

  private void sparsify(String changes, String more) throws IOException {
    config(SPARSIFY, changes);
    List<Safetensors.Output> tensors =
        new ArrayList<>(
            List.of(
                Safetensors.Output.matrix("encoder.weight", tensor(3, 2, 1)),
                Safetensors.Output.vector("encoder.bias", tensor(1, 3, 1)),
                Safetensors.Output.matrix("W_dec", tensor(3, 2, 1)),
                Safetensors.Output.vector("b_dec", tensor(1, 2, 1))));
    addVectors(tensors, more);
    Safetensors.write(folder.resolve("sae.safetensors"), tensors, Map.of());
  }

  private static void addVectors(List<Safetensors.Output> tensors, String more) {
    for (String vector : more.isBlank() ? new String[0] : more.trim().split(" +")) {
      int bracket = vector.indexOf('[');
      int size = Integer.parseInt(vector.substring(bracket + 1, vector.length() - 1));
      tensors.add(Safetensors.Output.vector(vector.substring(0, bracket), tensor(1, size, 2)));
    }
  }

  private void config(String base, String changes) throws IOException {
    ObjectMapper mapper = new ObjectMapper();
    ObjectNode json = (ObjectNode) mapper.readTree(base);
    json.setAll((ObjectNode) mapper.readTree(changes));
    Files.writeString(folder.resolve("cfg.json"), json.toString());
  }

  /** first, first + 1, ... */
  private static Tensor tensor(long rows, long cols, float first) {
    Tensor tensor =
        Tensor.of(Arena.ofAuto().allocate(ValueLayout.JAVA_FLOAT, rows * cols), rows, cols);
    for (long i = 0; i < rows * cols; i++) {
      tensor.set(i / cols, i % cols, first + i);
    }
    return tensor;
  }
}
