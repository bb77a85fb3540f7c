package espalier.format;

import java.nio.file.Path;
import java.util.OptionalDouble;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Reads SAEs of Gemma Scope (Lieberum et al. 2024): {@code params.npz} in folders such as {@code
 * gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82}. Only the names of the folders say where
 * an SAE belongs.
 */
final class GemmaScope {

  static final String WEIGHTS = "params.npz";
  private static final Pattern REPOSITORY =
      Pattern.compile("gemma-scope-[\\w.]+-(?:pt|it)-(res|mlp|att|transcoders)");
  private static final Pattern LAYER = Pattern.compile("layer_(\\d{1,6})");
  private static final Pattern L0 = Pattern.compile("average_l0_(\\d{1,6})");

  private GemmaScope() {}

  static SaeWeights read(Path folder, TensorFile file) {
    boolean transcoder = file.tensors().containsKey("w_enc"); // the only ones in lower case
    String encoder = transcoder ? "w_enc" : "W_enc";
    String decoder = transcoder ? "w_dec" : "W_dec";
    SaeFile.requireOnly(file, Set.of(encoder, decoder, "b_enc", "b_dec", "threshold"));
    long dSae = file.tensor("b_enc").size();
    long dOut = file.tensor("b_dec").size();
    long dIn = SaeDraft.matrix(file, encoder)[0];
    Names names = Names.of(folder);
    transcoder |= names.site.equals("transcoders");
    SaeDraft sae =
        new SaeDraft(
            folder,
            file,
            "Gemma Scope",
            transcoder ? "jumprelu_transcoder" : "jumprelu",
            dIn,
            dOut,
            dSae);
    sae.transcoder = transcoder;
    sae.encoderOfColumns(encoder).decoderOfRows(decoder);
    sae.bEnc = sae.vector("b_enc", dSae);
    sae.bDec = sae.vector("b_dec", dOut);
    sae.jumpRelu(sae.vector("threshold", dSae));
    sae.expectedL0 = names.l0;
    place(sae, names);
    return sae.finish();
  }

  private static void place(SaeDraft sae, Names names) {
    if (names.embedding) {
      sae.at("hook_embed");
      // Trained on embeddings times sqrt(d), as Gemma's blocks read them; the hook is before that.
      double root = Math.sqrt(sae.dIn);
      sae.scaleEncoder(1 / root);
      sae.scaleDecoder(root);
      sae.folded.add("scale of embeddings");
      sae.warnings.add("made for embeddings: taken for those before their scale");
      return;
    }
    if (names.layer.isEmpty()) {
      return;
    }
    String block = "blocks." + names.layer;
    if (sae.transcoder) {
      sae.at(block + ".ln2.hook_normalized");
      sae.siteOut = SaeSite.parse(block + ".hook_mlp_out");
      return;
    }
    sae.at(
        switch (names.site) {
          case "res" -> block + ".hook_resid_post";
          case "mlp" -> block + ".hook_mlp_out";
          case "att" -> block + ".attn.hook_z";
          default -> "layer_" + names.layer;
        });
  }

  /**
   * What the names of the folders say.
   *
   * @param site res, mlp, att or transcoders; empty if the repository is not in the path
   * @param layer empty if no folder names one
   */
  private record Names(String site, String layer, boolean embedding, OptionalDouble l0) {
    static Names of(Path folder) {
      String site = "";
      String layer = "";
      boolean embedding = false;
      OptionalDouble l0 = OptionalDouble.empty();
      for (Path part : folder.toAbsolutePath().normalize()) {
        String name = part.toString();
        Matcher repository = REPOSITORY.matcher(name);
        if (repository.find()) {
          site = repository.group(1);
        }
        Matcher numbered = LAYER.matcher(name);
        if (numbered.matches()) {
          layer = numbered.group(1);
        }
        embedding |= name.equals("embedding");
        Matcher measured = L0.matcher(name);
        if (measured.matches()) {
          l0 = OptionalDouble.of(Integer.parseInt(measured.group(1)));
        }
      }
      return new Names(site, layer, embedding, l0);
    }
  }
}
