package espalier.format;

import espalier.format.SaeWeights.Activation;
import java.nio.file.Path;
import java.util.HashSet;
import java.util.OptionalDouble;
import java.util.Set;
import java.util.regex.Pattern;

/**
 * Reads SAEs of EleutherAI's sparsify: {@code cfg.json} and {@code sae.safetensors} in a folder
 * named after the hook point. The encoder is a torch Linear, {@code [dSae, dIn]}. It is applied to
 * x - b_dec, in transcoders to x. A skip connection adds W_skip x.
 */
final class Sparsify {

  static final String WEIGHTS = "sae.safetensors";

  private static final Pattern SEED = Pattern.compile("seed\\d+");

  /**
   * The name of any module in a block. An SAE may be trained on it even if none can be applied
   * there.
   */
  private static final Pattern MODULE =
      Pattern.compile("(?:\\w+\\.)*(?:layers|h|blocks)\\.\\d+(?:\\.\\w+)*");

  private Sparsify() {}

  static SaeWeights read(Path folder, TensorFile file) {
    StrictJson cfg = StrictJson.read(folder.resolve("cfg.json"));
    if (cfg.flag("signed", false)) {
      throw cfg.fault("signed", "is true, which is not supported: latents may be negative");
    }
    String activation = cfg.text("activation", "topk");
    boolean groups = activation.equals("groupmax");
    if (!groups && !activation.equals("topk")) {
      throw cfg.fault("activation", "is " + activation + ", which is not supported");
    }
    boolean skip = cfg.flag("skip_connection", false);
    boolean transcode = cfg.flag("transcode", false);
    Set<String> names = new HashSet<>(Set.of("encoder.weight", "encoder.bias", "W_dec", "b_dec"));
    if (skip) {
      names.add("W_skip");
    }
    SaeFile.requireOnly(file, names);
    long dIn = cfg.positive("d_in");
    long dSae = latents(cfg, dIn);
    SaeDraft sae = new SaeDraft(folder, file, "sparsify", activation, dIn, dIn, dSae);
    sae.encoderOfRows("encoder.weight").decoderOfRows("W_dec");
    sae.bEnc = sae.vector("encoder.bias", dSae);
    sae.bDec = sae.vector("b_dec", dIn);
    sae.bPre = transcode ? null : sae.bDec.clone();
    sae.activation = groups ? Activation.GROUPMAX : Activation.TOPK;
    sae.k = k(cfg, dSae, groups);
    sae.expectedL0 = OptionalDouble.of(sae.k);
    if (skip) {
      sae.skipOfOutputs("W_skip");
    }
    place(sae);
    if (transcode) {
      sae.transcoder = true;
      sae.siteOut = sae.site;
      sae.site = sae.site.map(site -> new SaeSite(SaeSite.Kind.MLP_IN, site.layer()));
      if (sae.siteOut.isEmpty()) {
        throw cfg.fault("transcode", "is true, but the folder's name is no place in a model");
      }
    }
    return sae.finish();
  }

  /**
   * Finds the site. The folder is named after the module; if several seeds were trained it lies in
   * such a folder. Other names say nothing.
   */
  private static void place(SaeDraft sae) {
    Path folder = sae.path.toAbsolutePath().normalize();
    if (folder.getParent() != null && SEED.matcher(name(folder)).matches()) {
      folder = folder.getParent();
    }
    String name = name(folder);
    if (SaeSite.parse(name).isPresent() || MODULE.matcher(name).matches()) {
      sae.at(name);
    }
  }

  private static String name(Path folder) {
    return folder.getFileName() == null ? "" : folder.getFileName().toString();
  }

  private static int k(StrictJson cfg, long dSae, boolean groups) {
    int k = cfg.positive("k");
    if (k > dSae) {
      throw cfg.fault("k", "is " + k + " of " + dSae + " latents");
    }
    if (groups && dSae % k != 0) {
      throw cfg.fault("k", "is %d groups, which do not divide %d latents".formatted(k, dSae));
    }
    return k;
  }

  /** The number of latents; 0 in the file means a multiple of the width. */
  private static long latents(StrictJson cfg, long dIn) {
    long latents = cfg.has("num_latents") ? cfg.integer("num_latents") : 0;
    if (latents < 0 || latents > Integer.MAX_VALUE) {
      throw cfg.fault("num_latents", "is negative or larger than 2^31");
    }
    return latents > 0 ? latents : dIn * cfg.positive("expansion_factor");
  }
}
