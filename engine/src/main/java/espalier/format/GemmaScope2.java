package espalier.format;

import java.nio.file.Path;
import java.util.HashSet;
import java.util.OptionalDouble;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Reads SAEs of Gemma Scope 2 (for Gemma 3): {@code params.safetensors}, usually with a {@code
 * config.json}. Without it the names of the folders say what the SAE is, such as {@code
 * resid_post/layer_13_width_16k_l0_medium}.
 */
final class GemmaScope2 {

  static final String WEIGHTS = "params.safetensors";
  static final Pattern CROSS_LAYER = Pattern.compile("params_layer_\\d+\\.safetensors");
  private static final String SKIP = "affine_skip_connection";
  private static final Pattern LEAF = Pattern.compile("layer_(\\d{1,6})_width_.*");

  private GemmaScope2() {}

  static SaeWeights read(Path folder, TensorFile file, StrictJson config) {
    TensorEntry encoder = file.tensor("w_enc");
    if (encoder.shape().length != 2) {
      throw new InputException(
          file.file(), "tensor w_enc is no matrix: crosscoders are not supported");
    }
    String hookIn = config == null ? fromFolders(folder) : config.text("hf_hook_point_in", "");
    String hookOut = config == null ? hookIn : config.text("hf_hook_point_out", hookIn);
    boolean transcoder = config == null ? hookIn.contains("pre_feedforward") : isTranscoder(config);
    if (config == null && transcoder) {
      hookOut = hookIn.replace("pre_feedforward", "post_feedforward");
    }
    boolean skip = file.tensors().containsKey(SKIP);
    if (config != null && config.flag("affine_connection", skip) != skip) {
      throw config.fault(
          "affine_connection",
          "is %s, but tensor %s is %s".formatted(!skip, SKIP, skip ? "there" : "missing"));
    }
    Set<String> names = new HashSet<>(Set.of("w_enc", "w_dec", "b_enc", "b_dec", "threshold"));
    if (skip) {
      names.add(SKIP);
    }
    SaeFile.requireOnly(file, names);
    long dIn = encoder.shape()[0];
    long dSae = encoder.shape()[1];
    long dOut = file.tensor("b_dec").size();
    String architecture =
        transcoder ? skip ? "jumprelu_skip_transcoder" : "jumprelu_transcoder" : "jumprelu";
    SaeDraft sae = new SaeDraft(folder, file, "Gemma Scope 2", architecture, dIn, dOut, dSae);
    sae.transcoder = transcoder;
    sae.encoderOfColumns("w_enc").decoderOfRows("w_dec");
    sae.bEnc = sae.vector("b_enc", dSae);
    sae.bDec = sae.vector("b_dec", dOut);
    sae.jumpRelu(sae.vector("threshold", dSae));
    if (skip) {
      sae.skipOfInputs(SKIP);
    }
    sae.at(hookIn);
    if (transcoder) {
      sae.siteOut = SaeSite.parse(hookOut);
    }
    if (config != null && config.has("l0")) {
      sae.expectedL0 = OptionalDouble.of(config.number("l0"));
    }
    return sae.finish();
  }

  private static boolean isTranscoder(StrictJson config) {
    String architecture = config.text("architecture", "jump_relu");
    if (!architecture.equals("jump_relu")) {
      throw config.fault("architecture", "is " + architecture + ", which is not supported");
    }
    String type = config.text("type", "sae");
    return switch (type) {
      case "sae" -> false;
      case "transcoder" -> true;
      default -> throw config.fault("type", "is " + type + ", which is not supported");
    };
  }

  /** The hook that the names of the folders mean; empty if they say nothing. */
  private static String fromFolders(Path folder) {
    Path absolute = folder.toAbsolutePath().normalize();
    Matcher leaf = LEAF.matcher(absolute.getFileName().toString());
    Path parent = absolute.getParent();
    if (!leaf.matches() || parent == null || parent.getFileName() == null) {
      return "";
    }
    String block = "model.layers." + leaf.group(1);
    return switch (parent.getFileName().toString().replaceFirst("_all$", "")) {
      case "resid_post" -> block + ".output";
      case "attn_out" -> block + ".self_attn.o_proj.input";
      case "mlp_out" -> block + ".post_feedforward_layernorm.output";
      case "transcoder" -> block + ".pre_feedforward_layernorm.output";
      default -> "";
    };
  }
}
