package espalier.format;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.format.SaeWeights.Activation;
import espalier.format.SaeWeights.Normalisation;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.OptionalDouble;
import java.util.Set;

/**
 * Reads folders of SAELens: {@code cfg.json} and {@code sae_weights.safetensors}, as versions up to
 * 5 (with a flat configuration) and 6 (with {@code metadata}) write them. Encoders are stored as
 * {@code [dIn, dSae]}.
 */
final class SaeLens {

  static final String WEIGHTS = "sae_weights.safetensors";
  static final String CONFIG = "cfg.json";

  /** The factors of finetuned latents, by both names that they have had. */
  private static final List<String> FINETUNING =
      List.of("scaling_factor", "finetuning_scaling_factor");

  /** Architectures that compute something else, with the reason why they are refused. */
  private static final Map<String, String> UNSUPPORTED =
      Map.of(
          "abstopk", "latents may be negative",
          "matching_pursuit", "it is encoded step by step",
          "temporal", "it attends over the sequence",
          "batchtopk", "a training checkpoint; SAELens saves it for inference as jumprelu",
          "matryoshka_batchtopk",
              "a training checkpoint; SAELens saves it for inference as jumprelu");

  private static final Set<String> SUPPORTED =
      Set.of(
          "standard",
          "jumprelu",
          "topk",
          "gated",
          "transcoder",
          "skip_transcoder",
          "jumprelu_transcoder",
          "jumprelu_skip_transcoder");

  private SaeLens() {}

  static SaeWeights read(Path folder, TensorFile file) {
    StrictJson cfg = StrictJson.read(folder.resolve(CONFIG));
    boolean flat = !cfg.has("metadata");
    String architecture = architecture(cfg);
    refuseOddities(folder, cfg, file);
    long dIn = cfg.positive("d_in");
    long dOut = cfg.positive("d_out", (int) dIn);
    long dSae = cfg.positive("d_sae");
    SaeDraft sae =
        new SaeDraft(
            folder, file, flat ? "SAELens up to 5" : "SAELens 6", architecture, dIn, dOut, dSae);
    sae.transcoder = architecture.contains("transcoder");
    requireOnly(file, architecture);
    sae.encoderOfColumns("W_enc").decoderOfRows("W_dec");
    sae.bDec = sae.vector("b_dec", dOut);
    if (!sae.transcoder && cfg.flag("apply_b_dec_to_input", true)) {
      sae.bPre = sae.bDec.clone();
    }
    if (architecture.equals("gated")) {
      sae.gated(sae.vector("b_gate", dSae), sae.vector("b_mag", dSae), sae.vector("r_mag", dSae));
    } else {
      sae.bEnc = sae.vector("b_enc", dSae);
    }
    if (architecture.startsWith("jumprelu")) {
      sae.jumpRelu(sae.vector("threshold", dSae));
    }
    if (architecture.equals("topk")) {
      sae.activation = Activation.TOPK;
      sae.k = k(cfg, dSae);
      sae.expectedL0 = OptionalDouble.of(sae.k);
      if (cfg.flag("rescale_acts_by_decoder_norm", false)) {
        sae.foldDecoderNorms();
      }
    }
    if (architecture.contains("skip")) {
      sae.skipOfOutputs("W_skip");
    }
    normalise(cfg, sae);
    sites(cfg, flat, sae);
    return sae.finish();
  }

  private static String architecture(StrictJson cfg) {
    String activation = cfg.text("activation_fn", cfg.text("activation_fn_str", "relu"));
    String name = cfg.text("architecture", "standard");
    if (UNSUPPORTED.containsKey(name)) {
      throw cfg.fault(
          "architecture",
          "is %s, which is not supported: %s".formatted(name, UNSUPPORTED.get(name)));
    }
    if (!SUPPORTED.contains(name)) {
      throw cfg.fault("architecture", "is " + name + ", which is not supported");
    }
    if (!activation.equals("relu") && !activation.equals("topk")) {
      throw cfg.fault("activation_fn", "is " + activation + ", which is not supported");
    }
    return name.equals("standard") && activation.equals("topk") ? "topk" : name;
  }

  /** Refuses what changes the result and is not supported. */
  private static void refuseOddities(Path folder, StrictJson cfg, TensorFile file) {
    Path scaler = folder.resolve("activation_scaler.json");
    if (Files.exists(scaler)) {
      throw new InputException(
          scaler,
          "belongs to a training checkpoint, whose weights are for scaled activations; SAELens"
              + " folds the scale when it saves for inference");
    }
    if (file.tensors().containsKey("log_threshold")) {
      throw new InputException(
          file.file(),
          "tensor log_threshold belongs to a training checkpoint; SAELens saves it for inference"
              + " with threshold");
    }
    if (cfg.has("hook_head_index")
        || cfg.object("metadata").filter(m -> m.has("hook_head_index")).isPresent()) {
      throw cfg.fault("hook_head_index", "is set; SAEs of a single head are not supported");
    }
    boolean finetuned = cfg.flag("finetuning_scaling_factor", false);
    for (String name : FINETUNING) {
      if (file.tensors().containsKey(name)) {
        requireOnes(file.tensor(name, cfg.positive("d_sae")));
        finetuned = false;
      }
    }
    if (finetuned) {
      throw cfg.fault("finetuning_scaling_factor", "is true, but there are no factors");
    }
  }

  /**
   * Refuses factors other than 1. The first versions wrote a factor for each latent, which had an
   * effect after finetuning.
   */
  private static void requireOnes(TensorEntry factors) {
    for (long i = 0; i < factors.size(); i++) {
      if (factors.value(i) != 1) {
        throw new InputException(
            factors.file(),
            "tensor " + factors.name() + " is not all ones; finetuned latents are not supported");
      }
    }
  }

  /** Refuses other tensors: leaving one out would compute something else. */
  private static void requireOnly(TensorFile file, String architecture) {
    Set<String> names = new HashSet<>(Set.of("W_enc", "W_dec", "b_dec"));
    names.addAll(FINETUNING);
    names.addAll(
        architecture.equals("gated") ? Set.of("b_gate", "b_mag", "r_mag") : Set.of("b_enc"));
    if (architecture.startsWith("jumprelu")) {
      names.add("threshold");
    }
    if (architecture.contains("skip")) {
      names.add("W_skip");
    }
    SaeFile.requireOnly(file, names);
  }

  private static int k(StrictJson cfg, long dSae) {
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

  private static void normalise(StrictJson cfg, SaeDraft sae) {
    String key = "normalize_activations";
    JsonNode value = cfg.raw(key);
    String mode =
        value.isBoolean()
            ? value.booleanValue() ? "expected_average_only_in" : "none"
            : cfg.text(key, "none");
    switch (mode) {
      case "none" -> {}
      case "expected_average_only_in" -> {
        // The scale is folded when an SAE is saved; published ones may carry it beside.
        if (cfg.has("norm_scaling_factor")) {
          double scale = cfg.number("norm_scaling_factor");
          if (scale <= 0) {
            throw cfg.fault("norm_scaling_factor", "is not positive");
          }
          sae.foldInputScale(scale);
          sae.folded.add("expected average norm");
        }
      }
      case "constant_norm_rescale" -> sae.normalisation = Normalisation.CONSTANT_NORM;
      case "layer_norm" -> sae.normalisation = Normalisation.LAYER_NORM;
      default -> throw cfg.fault(key, "is " + mode + ", which is not supported");
    }
  }

  private static void sites(StrictJson cfg, boolean flat, SaeDraft sae) {
    if (flat) {
      sae.at(cfg.text("hook_name", cfg.text("hook_point", "")));
      return;
    }
    StrictJson metadata = cfg.object("metadata").orElseThrow();
    sae.at(metadata.text("hook_name", ""));
    if (sae.transcoder) {
      String out = metadata.text("hook_name_out", "");
      sae.siteOut = SaeSite.parse(out);
      if (sae.siteOut.isEmpty()) {
        throw cfg.fault(
            "metadata.hook_name_out", "is \"" + out + "\", which is no place in a model");
      }
    }
  }
}
