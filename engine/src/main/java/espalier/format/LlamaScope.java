package espalier.format;

import espalier.format.SaeWeights.Activation;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.OptionalDouble;
import java.util.Set;

/**
 * Reads SAEs of Llama Scope (He et al. 2024) and its successors in the way of OpenMOSS's own
 * library: the data set's average norms are folded into the weights, and latents are measured in
 * units of their decoder rows before the threshold is applied.
 */
final class LlamaScope {

  static final String CONFIG = "hyperparams.json";
  static final String WEIGHTS = "final.safetensors";
  private static final String LOG_THRESHOLD = "log_jumprelu_threshold";
  private static final String NORM = "dataset_average_activation_norm";

  private LlamaScope() {}

  /** Reads {@code hyperparams.json} and {@code checkpoints/final.safetensors}. */
  static SaeWeights read(Path folder, TensorFile file) {
    return read(folder, file, StrictJson.read(folder.resolve(CONFIG)), false);
  }

  /** Reads {@code config.json} and {@code sae_weights.safetensors}, which also holds the norms. */
  static SaeWeights readDistilled(Path folder, TensorFile file) {
    return read(folder, file, StrictJson.read(folder.resolve("config.json")), true);
  }

  private static SaeWeights read(Path folder, TensorFile file, StrictJson cfg, boolean distilled) {
    String format = distilled ? "Llama Scope R1" : "Llama Scope";
    for (String flag : new String[] {"apply_decoder_bias_to_pre_encoder", "use_glu_encoder"}) {
      if (cfg.flag(flag, false)) {
        throw cfg.fault(flag, "is true, which is not supported");
      }
    }
    long[] encoder = SaeDraft.matrix(file, "encoder.weight");
    long dSae = encoder[0];
    long dIn = encoder[1];
    long dOut = SaeDraft.matrix(file, "decoder.weight")[0];
    String in = cfg.text("hook_point_in");
    String out = cfg.text("hook_point_out", in);
    requireOnly(file, cfg, in, out, distilled);
    SaeDraft sae = new SaeDraft(folder, file, format, cfg.text("act_fn"), dIn, dOut, dSae);
    sae.transcoder = !in.equals(out);
    sae.encoderOfRows("encoder.weight").decoderOfColumns("decoder.weight");
    sae.bEnc = sae.vector("encoder.bias", dSae);
    sae.bDec =
        cfg.flag("use_decoder_bias", true)
            ? sae.vector("decoder.bias", dOut)
            : new double[(int) dOut];
    if (cfg.has("top_k")) {
      sae.expectedL0 = OptionalDouble.of(cfg.positive("top_k"));
    }
    if (distilled) {
      foldDistilled(sae, cfg);
    } else {
      fold(sae, cfg);
    }
    sae.at(in);
    if (sae.transcoder) {
      sae.siteOut = SaeSite.parse(out);
    }
    return sae.finish();
  }

  private static void requireOnly(
      TensorFile file, StrictJson cfg, String in, String out, boolean distilled) {
    Set<String> names = new HashSet<>(Set.of("encoder.weight", "encoder.bias", "decoder.weight"));
    if (cfg.flag("use_decoder_bias", true)) {
      names.add("decoder.bias");
    }
    if (distilled) {
      names.addAll(Set.of(LOG_THRESHOLD, NORM + "." + in));
      names.add(NORM + "." + out);
    }
    SaeFile.requireOnly(file, names);
  }

  /**
   * Folds the norms. With s = sqrt(d) / average norm, b_enc / s_in, b_dec / s_out and W_dec s_in /
   * s_out make the weights take x itself. Then the decoder's rows get norm 1, z is multiplied by
   * their norms, and the threshold is applied.
   */
  private static void fold(SaeDraft sae, StrictJson cfg) {
    double scaleIn = scale(sae, cfg, "in", "hook_point_in", sae.dIn);
    double scaleOut = scale(sae, cfg, "out", "hook_point_out", sae.dOut);
    SaeDraft.scale(sae.bEnc, 1 / scaleIn);
    SaeDraft.scale(sae.bDec, 1 / scaleOut);
    sae.scaleDecoder(scaleIn / scaleOut);
    sae.folded.add("average norms of the data set");
    if (cfg.flag("sparsity_include_decoder_norm", true)) {
      sae.foldDecoderNorms();
    }
    switch (cfg.text("act_fn")) {
      case "relu" -> {}
      case "jumprelu" -> {
        double threshold = cfg.number("jump_relu_threshold");
        if (threshold < 0) {
          throw cfg.fault("jump_relu_threshold", "is negative: latents might be, too");
        }
        sae.jumpRelu(sae.constant(threshold));
      }
      case "topk" -> {
        sae.activation = Activation.TOPK;
        sae.k = cfg.positive("top_k");
        if (sae.k > sae.dSae) {
          throw cfg.fault("top_k", "is " + sae.k + " of " + sae.dSae + " latents");
        }
      }
      default -> throw cfg.fault("act_fn", "is " + cfg.text("act_fn") + ", which is not supported");
    }
  }

  /**
   * Folds the scales of later files, whose weights are not rescaled on reading: latents are those
   * of s_in x, a threshold holds for z times the norm of the decoder's row, and the output is
   * divided by s_out.
   */
  private static void foldDistilled(SaeDraft sae, StrictJson cfg) {
    if (!cfg.text("act_fn").equals("jumprelu")) {
      throw cfg.fault("act_fn", "is " + cfg.text("act_fn") + ", which is not supported");
    }
    double[] threshold = sae.vector(LOG_THRESHOLD, sae.dSae);
    double[] norms = sae.decoderNorms();
    boolean byNorm = cfg.flag("sparsity_include_decoder_norm", true);
    for (int i = 0; i < threshold.length; i++) {
      threshold[i] = Math.exp(threshold[i]) / (byNorm ? norms[i] : 1);
    }
    sae.jumpRelu(threshold);
    sae.scaleEncoder(scale(sae, cfg, "in", "hook_point_in", sae.dIn));
    sae.foldOutputScale(1 / scale(sae, cfg, "out", "hook_point_out", sae.dOut));
    sae.folded.add("average norms of the data set");
  }

  private static double scale(SaeDraft sae, StrictJson cfg, String end, String hook, long d) {
    String mode = cfg.text("norm_activation", "dataset-wise");
    if (!mode.equals("dataset-wise")) {
      throw cfg.fault("norm_activation", "is " + mode + ", only dataset-wise is supported");
    }
    String tensor = NORM + "." + cfg.text(hook, cfg.text("hook_point_in"));
    double norm =
        sae.file.tensors().containsKey(tensor)
            ? sae.file.tensor(tensor, new long[0]).value(0)
            : cfg.object(NORM).orElseThrow(() -> cfg.fault(NORM, "is missing")).number(end);
    if (!(norm > 0)) {
      throw cfg.fault(NORM, "is not positive");
    }
    return Math.sqrt(d) / norm;
  }
}
