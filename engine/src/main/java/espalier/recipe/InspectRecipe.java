package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.format.Npy;
import espalier.format.PeftAdapter;
import espalier.format.SaeFile;
import espalier.format.SaeSite;
import espalier.format.SaeWeights;
import espalier.sae.Latents;
import espalier.sae.Sae;
import espalier.sae.SaeLoader;
import espalier.sae.Splice;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Consumer;

/**
 * {@code espalier inspect}: what a model, SAE or adapter is taken for, and what an SAE makes of
 * given activations.
 */
public final class InspectRecipe {

  private final InspectSettings settings;
  private final Console console;

  public InspectRecipe(InspectSettings settings, Console console) {
    this.settings = settings;
    this.console = console;
  }

  /**
   * @param told of the result, once all is computed and before anything is written
   */
  public void run(Consumer<ObjectNode> told) {
    settings.latents().ifPresent(file -> OutputPath.checkFile("--latents", file));
    settings.output().ifPresent(file -> OutputPath.checkFile("--output", file));
    settings.hidden().ifPresent(file -> OutputPath.checkFile("--hidden", file));
    Path path = settings.path();
    if (!Files.exists(path)) {
      throw new InputException(path, "no such file or folder");
    }
    if (Files.exists(path.resolve("adapter_config.json"))) {
      refuseInput("an adapter");
      told.accept(adapter(path));
    } else if (Files.exists(path.resolve("config.json")) && !SaeFile.isIn(path)) {
      model(path, told);
    } else {
      sae(path, told);
    }
  }

  private void sae(Path path, Consumer<ObjectNode> told) {
    if (settings.hidden().isPresent()) {
      throw new InputException("--hidden: " + path + " is an SAE, not a model");
    }
    try (SaeFile file = SaeFile.open(path)) {
      ObjectNode json = sae(file.weights());
      settings
          .input()
          .ifPresentOrElse(
              input -> apply(file.weights(), input, () -> told.accept(json)),
              () -> told.accept(json));
    }
  }

  private void refuseInput(String what) {
    if (settings.input().isPresent()) {
      throw new InputException("--input: " + settings.path() + " is " + what + ", not an SAE");
    }
  }

  private void model(Path path, Consumer<ObjectNode> told) {
    if (settings.latents().isPresent()) {
      throw new InputException("--latents: " + path + " is a model, not an SAE");
    }
    try (ModelFolder folder = ModelFolder.open(path, console::warn)) {
      ModelConfig config = folder.config();
      ObjectNode json = JsonNodeFactory.instance.objectNode();
      json.put("kind", "model");
      json.put("format", "Hugging Face");
      json.put("architecture", config.family().architecture());
      ObjectNode fields = config.toJson();
      fields.remove(List.of("architectures", "torch_dtype"));
      json.setAll(fields);
      settings
          .input()
          .ifPresentOrElse(
              input -> ModelProbe.run(folder, input, settings, () -> told.accept(json)),
              () -> told.accept(json));
    }
  }

  private ObjectNode adapter(Path path) {
    try (PeftAdapter file = PeftAdapter.open(path, console::warn)) {
      ObjectNode json = JsonNodeFactory.instance.objectNode();
      json.put("kind", "adapter");
      json.put("format", "PEFT LoRA");
      json.put("dropout", file.dropout());
      json.put("rank_stabilised", file.rankStabilised());
      ObjectNode layers = json.putObject("layers");
      file.layers()
          .forEach(
              (name, layer) ->
                  layers.putObject(name).put("rank", layer.rank()).put("alpha", layer.alpha()));
      return json;
    }
  }

  private static ObjectNode sae(SaeWeights w) {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("kind", w.isTranscoder() ? "transcoder" : "sae");
    json.put("format", w.format());
    json.put("architecture", w.architecture());
    json.put("activation", w.activation().label());
    json.put("d_in", w.dIn());
    json.put("d_out", w.dOut());
    json.put("d_sae", w.dSae());
    if (w.k() > 0) {
      json.put("k", w.k());
    }
    json.put("dtype", w.encoder().entry().dtype().name());
    json.put("hook", w.hook().isEmpty() ? null : w.hook());
    json.put("site", w.site().map(site -> site.kind().label()).orElse(null));
    json.put("layer", w.site().map(SaeSite::layer).orElse(null));
    w.siteOut().ifPresent(out -> json.put("site_out", out.kind().label()));
    json.put("normalisation", w.normalisation().label());
    json.put("subtracts_decoder_bias", w.bPre() != null);
    json.put("skip_connection", w.skip() != null);
    w.expectedL0().ifPresent(l0 -> json.put("expected_l0", l0));
    json.put("folded", w.folded().isEmpty() ? "nothing" : String.join(", ", w.folded()));
    if (!w.warnings().isEmpty()) {
      w.warnings().forEach(json.putArray("warnings")::add);
    }
    return json;
  }

  /**
   * Runs the SAE on activations of a file and writes what is asked for.
   *
   * @param computed called in between
   */
  private void apply(SaeWeights weights, Path input, Runnable computed) {
    Npy x = Npy.open(input);
    if (x.isInteger() || x.cols() != weights.dIn()) {
      throw new InputException(
          input,
          "holds %s [%d, %d], expected floating-point rows of %d"
              .formatted(x.type(), x.rows(), x.cols(), weights.dIn()));
    }
    int n = Math.toIntExact(x.rows());
    int d = Math.toIntExact(x.cols());
    try (Device device = Device.open()) {
      Sae sae = SaeLoader.load(device, weights, console::warn);
      Tensor activations = Tensor.allocate(device, n, d);
      for (int r = 0; r < n; r++) {
        for (int c = 0; c < d; c++) {
          activations.set(r, c, x.real(r, c));
        }
      }
      Tape tape = new Tape(device);
      Splice splice = Splice.into(tape, tape.constant(activations), sae, MemorySegment.NULL);
      Var output = tape.output(splice.output());
      tape.bind(device);
      tape.forward();
      computed.run();
      settings
          .output()
          .ifPresent(file -> Npy.write(file, n, (int) sae.outputs(), rows(output.value())));
      settings.latents().ifPresent(file -> Npy.write(file, n, (int) sae.latents(), dense(splice)));
    }
  }

  private static float[][] rows(Tensor tensor) {
    float[][] rows = new float[(int) tensor.rows()][];
    for (int r = 0; r < rows.length; r++) {
      rows[r] = tensor.rows(r, 1).toArray();
    }
    return rows;
  }

  private static float[][] dense(Splice splice) {
    Latents.Lists lists = splice.latents().read();
    float[][] dense = new float[(int) splice.input().rows()][];
    for (int t = 0; t < dense.length; t++) {
      dense[t] = lists.dense(t);
    }
    return dense;
  }
}
