package espalier.data;

/**
 * Where a text may be cut for a tokenizer so that the ids of the pieces, one after another, are
 * those of the whole text. Every cut is at a space between two letters or digits. {@link CutRules}
 * says for which tokenizers this is right.
 */
enum Cuts {
  /** Texts must not be cut. */
  NONE,
  /** The space begins the next piece. */
  BEFORE_SPACE,
  /** The space is left out, because the tokenizer itself puts one before every text. */
  AT_SPACE;

  /**
   * The end of the longest piece at the beginning of {@code text} at which a cut is allowed; 0 if
   * there is none.
   */
  int last(CharSequence text) {
    for (int at = this == NONE ? 0 : text.length() - 2; at > 0; at--) {
      if (text.charAt(at) == ' '
          && Character.isLetterOrDigit(text.charAt(at - 1))
          && Character.isLetterOrDigit(text.charAt(at + 1))) {
        return at;
      }
    }
    return 0;
  }

  /** How many characters between two pieces belong to neither. */
  int between() {
    return this == AT_SPACE ? 1 : 0;
  }
}
