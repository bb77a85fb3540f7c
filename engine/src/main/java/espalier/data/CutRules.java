package espalier.data;

import com.fasterxml.jackson.databind.JsonNode;
import espalier.format.StrictJson;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * Finds out from a {@code tokenizer.json} whether texts may be cut at a space between letters or
 * digits.
 *
 * <p>A cut is allowed if no step of the tokenizer can notice it. No added token may span it.
 * Normalisers must work character by character, or put a "▁" before the text. Then there are two
 * possibilities. Either the pre-tokenizer splits words at that space, whatever surrounds them. Or
 * it leaves words together, but no merge joins a piece that begins with a space to one that ends
 * otherwise, so that byte-pair encoding works independently on both sides. If a tokenizer has steps
 * that are not known here, nothing is cut.
 */
final class CutRules {

  private static final String SPACE = "▁"; // as SentencePiece writes it
  private static final String BYTE_SPACE = "Ġ"; // as byte-level vocabularies write it

  /**
   * Parts of the patterns by which GPT-2, Llama 3, Qwen 2 and Mistral find words. None matches a
   * space behind anything but white space, and only at white space does one look to the right.
   */
  private static final List<String> ALTERNATIVES =
      List.of(
          "'s|'t|'re|'ve|'m|'ll|'d",
          "(?i:'s|'t|'re|'ve|'m|'ll|'d)",
          " ?\\p{L}+",
          " ?\\p{N}+",
          "\\p{N}",
          "\\p{N}{1,3}",
          " ?[^\\s\\p{L}\\p{N}]+",
          " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*",
          " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*",
          "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+",
          "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+",
          "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*",
          "\\s*[\\r\\n]+",
          "\\s+(?!\\S)",
          "\\s+");

  private static final Pattern WORDS = words();

  /** Matches a space behind something else. */
  private static final Pattern SPANNING = Pattern.compile("[^\\s▁][ ▁]", Pattern.DOTALL);

  private final StrictJson definition;
  private boolean replaced; // spaces, by normalisers
  private boolean prepended;
  private boolean byteLevel;
  private boolean metaspace;
  private boolean parted; // words, at every such space

  private CutRules(StrictJson definition) {
    this.definition = definition;
  }

  /**
   * Finds the rules of a tokenizer.
   *
   * @param definition of a tokenizer that its library can read
   */
  static Cuts of(StrictJson definition) {
    CutRules rules = new CutRules(definition);
    boolean known =
        steps(definition.raw("normalizer"), "normalizers").stream().allMatch(rules::normalizes)
            && steps(definition.raw("pre_tokenizer"), "pretokenizers").stream()
                .allMatch(rules::preTokenizes)
            && !(rules.prepended && (rules.parted || rules.byteLevel || rules.metaspace))
            && !(rules.prepended && !rules.replaced)
            && rules.addsTokens()
            && rules.merges(definition.raw("model"));
    if (!known) {
      return Cuts.NONE;
    }
    return rules.prepended ? Cuts.AT_SPACE : Cuts.BEFORE_SPACE;
  }

  /** A pattern of any of the parts, with the last one for all white space. */
  private static Pattern words() {
    String part = ALTERNATIVES.stream().map(Pattern::quote).collect(Collectors.joining("|"));
    return Pattern.compile("(?:(?:%s)\\|)*%s".formatted(part, Pattern.quote("\\s+")));
  }

  /** The steps of a sequence, and of sequences within it. */
  private static List<JsonNode> steps(JsonNode step, String key) {
    List<JsonNode> steps = new ArrayList<>();
    if (step.path("type").asText().equals("Sequence")) {
      step.path(key).forEach(inner -> steps.addAll(steps(inner, key)));
    } else if (!step.isNull() && !step.isMissingNode()) {
      steps.add(step);
    }
    return steps;
  }

  private boolean normalizes(JsonNode step) {
    switch (step.path("type").asText()) {
      case "NFC", "NFD", "NFKC", "NFKD" -> {
        return true; // nothing composes with a space before it
      }
      case "Replace" -> {
        replaced = true;
        return isSpace(step.path("pattern")) && step.path("content").asText().equals(SPACE);
      }
      case "Prepend" -> {
        prepended = true;
        return step.path("prepend").asText().equals(SPACE);
      }
      default -> {
        return false;
      }
    }
  }

  private static boolean isSpace(JsonNode pattern) {
    return pattern.path("String").asText().equals(" ");
  }

  private boolean preTokenizes(JsonNode step) {
    if (byteLevel || metaspace) {
      return false; // there are no spaces any more
    }
    switch (step.path("type").asText()) {
      case "Digits" -> {
        return true;
      }
      case "ByteLevel" -> {
        byteLevel = true;
        parted |= step.path("use_regex").asBoolean(true); // by GPT-2's pattern
        return !replaced;
      }
      case "Metaspace" -> {
        metaspace = true;
        parted |= step.path("split").asBoolean(true);
        return !replaced && step.path("replacement").asText().equals(SPACE);
      }
      case "Split" -> {
        if (isSpace(step.path("pattern"))) {
          return replaced; // none is left
        }
        parted = true;
        return !replaced
            && WORDS.matcher(step.path("pattern").path("Regex").asText()).matches()
            && step.path("behavior").asText().equals("Isolated")
            && !step.path("invert").asBoolean();
      }
      default -> {
        return false;
      }
    }
  }

  /** Whether no added token notices a cut: none spans it, or asks what is beside it. */
  private boolean addsTokens() {
    for (JsonNode token : definition.raw("added_tokens")) {
      String content = token.path("content").asText();
      boolean wary =
          token.path("lstrip").asBoolean()
              || token.path("rstrip").asBoolean()
              || token.path("single_word").asBoolean();
      boolean first = prepended && content.matches("(?s)[ ▁\\p{L}\\p{N}].*");
      if (wary || first || SPANNING.matcher(content).find()) {
        return false;
      }
    }
    return true;
  }

  private boolean merges(JsonNode model) {
    if (!model.path("type").asText().equals("BPE")
        || model.path("dropout").asDouble() != 0
        || !model.path("continuing_subword_prefix").asText("").isEmpty()
        || !model.path("end_of_word_suffix").asText("").isEmpty()) {
      return false;
    }
    if (parted) {
      return true;
    }
    String space = byteLevel ? BYTE_SPACE : replaced || metaspace ? SPACE : " ";
    if (model.path("ignore_merges").asBoolean() || !model.path("vocab").has(space)) {
      return false; // whole texts are looked up; unknown characters are joined
    }
    for (JsonNode merge : model.path("merges")) {
      String left = merge.isArray() ? merge.path(0).asText() : merge.asText().split(" ", 2)[0];
      String right = merge.isArray() ? merge.path(1).asText() : merge.asText().split(" ", 2)[1];
      if (right.startsWith(space) && !endsOtherwise(left)) {
        return false;
      }
    }
    return true;
  }

  /** Whether a token cannot be the end of a letter or digit, in whatever way that is written. */
  private boolean endsOtherwise(String token) {
    char last = token.charAt(token.length() - 1);
    boolean control = byteLevel && last >= '\u0100' && last <= '\u0120';
    return control || last == '▁' || (last < 0x80 && !Character.isLetterOrDigit(last));
  }
}
