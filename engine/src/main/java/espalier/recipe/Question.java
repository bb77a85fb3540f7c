package espalier.recipe;

import java.util.List;
import java.util.stream.IntStream;

/**
 * A multiple-choice question: which continuation of a context is likeliest.
 *
 * @param choices the text that is scored, with a space before each
 * @param right whether each choice is right: for one, or if {@code several} for any number of them
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
