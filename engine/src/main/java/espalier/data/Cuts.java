package espalier.data;

/**
 * Where a text may be cut for a tokenizer, so that the ids of the pieces, one after the other, are
 * those of the whole. Every cut is at a space between two letters or digits; {@link CutRules} says
 * for which tokenizers that is right.
 */
enum Cuts {
  /** Nowhere. */
  NONE,
  /** The space begins the next piece. */
  BEFORE_SPACE,
  /** The space is left out: the tokenizer itself puts one before every text. */
  AT_SPACE;

  /** The end of the longest piece that {@code text} begins with; 0 where it cannot be cut. */
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

  /** Characters between two pieces that belong to neither. */
  int between() {
    return this == AT_SPACE ? 1 : 0;
  }
}
