package espalier.recipe;

import java.util.List;
import java.util.stream.IntStream;

/**
 * A multiple-choice question: which continuation of a context is likeliest.
 *
 * @param choices as they are scored, a space before each, and as long as they are counted
 * @param right which are right: one, or in {@code several} any number
 * @param several whether what counts is the probability of all that are right together
 *     (TruthfulQA's mc2) instead of the likeliest one
 */
record Question(String context, List<String> choices, List<Boolean> right, boolean several) {

  /** Of a question with one right answer. */
  static Question of(String context, List<String> choices, int right) {
    List<Boolean> flags = IntStream.range(0, choices.size()).mapToObj(i -> i == right).toList();
    return new Question(context, choices, flags, false);
  }
}
