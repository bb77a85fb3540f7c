package espalier.format;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.format.SaeWeights.Architecture;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.Set;

/**
 * SAELens folders: {@code cfg.json} and {@code sae_weights.safetensors}, as versions up to 5 (a
 * flat configuration) and 6 (with {@code metadata}) write them. Encoders are stored {@code [dIn,
 * dSae]}.
 */
public final class SaeLens {

  static final String WEIGHTS = "sae_weights.safetensors";
  private static final String CONFIG = "cfg.json";
  private static final String SCALING = "scaling_factor";
  private static final Set<String> TENSORS = Set.of("W_enc", "b_enc", "W_dec", "b_dec", SCALING);
  private static final Set<String> WITH_THRESHOLD =
      Set.of("W_enc", "b_enc", "W_dec", "b_dec", SCALING, "threshold");

  private SaeLens() {}

  static SaeWeights read(Path folder, Safetensors file) {
    StrictJson cfg = StrictJson.read(folder.resolve(CONFIG));
    boolean flat = !cfg.has("metadata");
    String hook = hook(cfg, flat);
    Architecture architecture = architecture(cfg);
    SaeFile.requireBlockOutput(cfg.file(), hook);
    refuseUnsupported(cfg);
    boolean jumpRelu = architecture == Architecture.JUMPRELU;
    SaeFile.requireOnly(file, jumpRelu ? WITH_THRESHOLD : TENSORS);
    long dIn = cfg.positive("d_in");
    long dSae = cfg.positive("d_sae");
    if (file.tensors().containsKey(SCALING)) {
      requireOnes(file.tensor(SCALING, dSae));
    }
    return new SaeWeights(
        folder,
        flat ? "SAELens up to 5" : "SAELens 6",
        architecture,
        dIn,
        dSae,
        file.tensor("W_enc", dIn, dSae),
        false,
        file.tensor("b_enc", dSae),
        file.tensor("W_dec", dSae, dIn),
        file.tensor("b_dec", dIn),
        jumpRelu ? file.tensor("threshold", dSae) : null,
        architecture == Architecture.TOPK ? OptionalLong.of(k(cfg, dSae)) : OptionalLong.empty(),
        cfg.flag("apply_b_dec_to_input", true),
        architecture == Architecture.TOPK && cfg.flag("rescale_acts_by_decoder_norm", false),
        hook,
        SaeFile.blockOf(hook),
        List.of());
  }

  private static String hook(StrictJson cfg, boolean flat) {
    if (flat) {
      return cfg.text("hook_name", cfg.text("hook_point", ""));
    }
    return cfg.object("metadata").orElseThrow().text("hook_name", "");
  }

  private static Architecture architecture(StrictJson cfg) {
    String activation = cfg.text("activation_fn", cfg.text("activation_fn_str", "relu"));
    String name = cfg.text("architecture", "standard");
    if (name.equals("standard") && activation.equals("topk")) {
      return Architecture.TOPK;
    }
    if (!activation.equals("relu") && !activation.equals("topk")) {
      throw cfg.fault("activation_fn", "is " + activation + ", which is not supported");
    }
    return switch (name) {
      case "standard" -> Architecture.STANDARD;
      case "jumprelu" -> Architecture.JUMPRELU;
      case "topk" -> Architecture.TOPK;
      default ->
          throw cfg.fault(
              "architecture", "is " + name + "; supported are standard, jumprelu and topk");
    };
  }

  private static long k(StrictJson cfg, long dSae) {
    StrictJson holder =
        cfg.has("k")
            ? cfg
            : cfg.object("activation_fn_kwargs").orElseThrow(() -> cfg.fault("k", "is missing"));
    int k = holder.positive("k");
    if (k > dSae) {
      throw holder.fault("k", "is " + k + " of " + dSae + " latents");
    }
    return k;
  }

  private static void refuseUnsupported(StrictJson cfg) {
    JsonNode normalize = cfg.raw("normalize_activations");
    boolean none =
        normalize.isMissingNode()
            || normalize.isNull()
            || normalize.asText().equals("none")
            || (normalize.isBoolean() && !normalize.booleanValue());
    if (!none) {
      throw cfg.fault(
          "normalize_activations", "is " + normalize.asText() + ", which is not supported");
    }
    if (!cfg.text("reshape_activations", "none").equals("none")) {
      throw cfg.fault("reshape_activations", "is not none, which is not supported");
    }
    if (cfg.flag("finetuning_scaling_factor", false)) {
      throw cfg.fault("finetuning_scaling_factor", "is true, which is not supported");
    }
  }

  /** The first versions wrote a factor for each latent, which had an effect after finetuning. */
  private static void requireOnes(TensorEntry factors) {
    for (long i = 0; i < factors.size(); i++) {
      if (factors.value(i) != 1) {
        throw new InputException(
            factors.file(), "tensor scaling_factor is not all ones, which is not supported");
      }
    }
  }

  /**
   * An SAE to be written.
   *
   * @param wEnc {@code [dIn, dSae]}
   * @param wDec {@code [dSae, dIn]}
   * @param threshold {@code [1, dSae]} for JumpReLU, else null
   * @param hook TransformerLens name of the site
   */
  public record Output(
      Architecture architecture,
      Tensor wEnc,
      Tensor bEnc,
      Tensor wDec,
      Tensor bDec,
      Tensor threshold,
      long k,
      boolean subtractDecoderBias,
      String hook,
      String modelName,
      int contextSize,
      boolean hasBos) {}

  /** Writes the layout of SAELens 6, weights first: a folder with a configuration is complete. */
  public static void write(Path folder, Output sae) {
    try {
      Files.createDirectories(folder);
    } catch (IOException e) {
      throw new UncheckedIOException(folder + " cannot be made", e);
    }
    List<Safetensors.Output> tensors = new ArrayList<>();
    tensors.add(Safetensors.Output.matrix("W_enc", sae.wEnc));
    tensors.add(Safetensors.Output.vector("b_enc", sae.bEnc));
    tensors.add(Safetensors.Output.matrix("W_dec", sae.wDec));
    tensors.add(Safetensors.Output.vector("b_dec", sae.bDec));
    if (sae.threshold != null) {
      tensors.add(Safetensors.Output.vector("threshold", sae.threshold));
    }
    Safetensors.write(folder.resolve(WEIGHTS), tensors, Map.of("format", "pt"));
    AtomicFiles.write(folder.resolve(CONFIG), config(sae));
  }

  private static ObjectNode config(Output sae) {
    ObjectNode cfg = JsonNodeFactory.instance.objectNode();
    cfg.put("architecture", sae.architecture.label());
    cfg.put("d_in", sae.wEnc.rows());
    cfg.put("d_sae", sae.wEnc.cols());
    cfg.put("dtype", "float32");
    cfg.put("device", "cpu");
    cfg.put("apply_b_dec_to_input", sae.subtractDecoderBias);
    cfg.put("normalize_activations", "none");
    cfg.put("reshape_activations", "none");
    if (sae.architecture == Architecture.TOPK) {
      cfg.put("k", sae.k);
      cfg.put("rescale_acts_by_decoder_norm", false);
    }
    ObjectNode metadata = cfg.putObject("metadata");
    metadata.put("model_name", sae.modelName);
    metadata.put("hook_name", sae.hook);
    metadata.put("prepend_bos", sae.hasBos);
    metadata.put("context_size", sae.contextSize);
    metadata.put("exclude_special_tokens", true);
    return cfg;
  }
}
