package espalier.recipe;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.Tokenizer;
import espalier.device.Device;
import espalier.format.AtomicFiles;
import espalier.format.InputException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalInt;
import java.util.function.Consumer;
import java.util.function.ToIntFunction;

/**
 * {@code espalier score}: multiple choice by log-likelihood, as EleutherAI's lm-evaluation-harness
 * does it, for a model, with SAEs, adapted around them, and adapted without them.
 *
 * <p>A choice's score is the sum of the log-likelihoods of its tokens after the context. {@code
 * acc}: how often that of the right choice is the highest; {@code acc_norm}: divided by the
 * choice's characters (Unicode code points, without the space before it) first; {@code acc_bytes}:
 * by its bytes. {@code mc2}: the share of the probability of all choices that falls to those that
 * are right.
 */
public final class ScoreRecipe {

  private final ScoreSettings settings;
  private final Console console;

  public ScoreRecipe(ScoreSettings settings, Console console) {
    this.settings = settings;
    this.console = console;
  }

  /**
   * @param told of the result, before anything is written
   */
  public void run(Consumer<ObjectNode> told) {
    settings.details().ifPresent(file -> OutputPath.checkFile("--details", file));
    List<Question> questions = QuestionFile.read(settings.questions());
    if (settings.limit().isPresent() && settings.limit().getAsInt() < questions.size()) {
      questions = questions.subList(0, settings.limit().getAsInt());
    }
    try (Device device = Device.open();
        Tokenizer tokenizer = Tokenizer.open(settings.model())) {
      Variants variants = Variants.load(device, settings, console);
      List<SpanScorer.Span> spans = spans(questions, tokenizer, variants);
      SpanScorer scorer =
          new SpanScorer(
              device,
              variants.model(),
              List.copyOf(variants.byName().values()),
              variants.longest(),
              new SpanScorer.Workspace(device));
      double[][] sums;
      try (Console.Progress progress = console.progress("score", spans.size())) {
        sums = scorer.score(spans, done -> progress.step(done, ""));
      }
      told.accept(result(questions, variants, sums));
      settings.details().ifPresent(file -> write(file, questionsOf(spans, sums, variants)));
    }
  }

  private List<SpanScorer.Span> spans(
      List<Question> questions, Tokenizer tokenizer, Variants variants) {
    OptionalInt bos = OptionalInt.empty();
    if (settings.bos() && tokenizer.hasBos()) {
      bos = variants.model().config().bos();
    }
    List<SpanScorer.Span> spans = new ArrayList<>();
    for (Question question : questions) {
      for (String choice : question.choices()) {
        spans.add(span(question.context(), choice, tokenizer, bos, variants.longest()));
      }
    }
    return spans;
  }

  /**
   * Context and choice are tokenized together, as a choice's first token may take the space before
   * it in; what the context alone has as tokens is the context. Spaces at its end go to the choice.
   */
  private SpanScorer.Span span(
      String context, String choice, Tokenizer tokenizer, OptionalInt bos, int longest) {
    String trimmed = PythonText.rstrip(context);
    String continuation = context.substring(trimmed.length()) + " " + choice;
    int[] before = tokenizer.encode(trimmed);
    int[] all = tokenizer.encode(trimmed + continuation);
    int first = bos.isPresent() ? 1 : 0;
    int[] ids = new int[first + all.length];
    bos.ifPresent(id -> ids[0] = id);
    System.arraycopy(all, 0, ids, first, all.length);
    int start = first + before.length;
    if (start < 1) {
      throw new InputException(
          settings.questions(), "a context is empty, and the model has no BOS to begin with");
    }
    if (start >= ids.length) {
      throw new InputException(
          settings.questions(), "a choice adds no token to its context: '" + choice + "'");
    }
    int cut = Math.max(0, ids.length - longest);
    if (start - cut < 1) {
      throw new InputException(
          settings.questions(),
          "a choice has %d tokens, more than fit into --context %d"
              .formatted(ids.length - start, longest));
    }
    int[] kept = Arrays.copyOfRange(ids, cut, ids.length);
    if (cut > 0 && bos.isPresent()) {
      kept[0] = bos.getAsInt();
    }
    return new SpanScorer.Span(kept, start - cut);
  }

  private static List<ObjectNode> questionsOf(
      List<SpanScorer.Span> spans, double[][] sums, Variants variants) {
    List<ObjectNode> lines = new ArrayList<>();
    for (int i = 0; i < spans.size(); i++) {
      ObjectNode line = JsonNodeFactory.instance.objectNode();
      line.put("choice", i).put("start", spans.get(i).start());
      ArrayNode ids = line.putArray("ids");
      Arrays.stream(spans.get(i).ids()).forEach(ids::add);
      for (int v = 0; v < sums.length; v++) {
        line.put(variants.names().get(v), sums[v][i]);
      }
      lines.add(line);
    }
    return lines;
  }

  private static void write(Path file, List<ObjectNode> lines) {
    StringBuilder text = new StringBuilder();
    lines.forEach(line -> text.append(line).append('\n'));
    AtomicFiles.write(file, text.toString());
  }

  private static ObjectNode result(List<Question> questions, Variants variants, double[][] sums) {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("questions", questions.size());
    ObjectNode all = json.putObject("variants");
    for (int v = 0; v < sums.length; v++) {
      all.set(variants.names().get(v), metrics(questions, sums[v]));
    }
    return json;
  }

  /**
   * @param sums of all choices of all questions, in their order
   */
  static ObjectNode metrics(List<Question> questions, double[] sums) {
    Mean acc = new Mean();
    Mean accNorm = new Mean();
    Mean accBytes = new Mean();
    Mean mc2 = new Mean();
    int at = 0;
    for (Question question : questions) {
      double[] mine = Arrays.copyOfRange(sums, at, at + question.choices().size());
      at += mine.length;
      if (question.several()) {
        mc2.add(probabilityOfRight(question, mine));
        continue;
      }
      acc.add(isRight(question, mine, choice -> 1));
      accNorm.add(isRight(question, mine, choice -> choice.codePointCount(0, choice.length())));
      accBytes.add(
          isRight(question, mine, choice -> choice.getBytes(StandardCharsets.UTF_8).length));
    }
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    acc.addTo(json, "acc");
    accNorm.addTo(json, "acc_norm");
    accBytes.addTo(json, "acc_bytes");
    mc2.addTo(json, "mc2");
    return json;
  }

  private static double isRight(Question question, double[] sums, ToIntFunction<String> length) {
    int best = 0;
    double highest = Double.NEGATIVE_INFINITY;
    for (int i = 0; i < sums.length; i++) {
      double score = sums[i] / length.applyAsInt(question.choices().get(i));
      if (score > highest) {
        highest = score;
        best = i;
      }
    }
    return question.right().get(best) ? 1 : 0;
  }

  private static double probabilityOfRight(Question question, double[] sums) {
    double highest = Arrays.stream(sums).max().orElseThrow();
    double right = 0;
    double all = 0;
    for (int i = 0; i < sums.length; i++) {
      double p = Math.exp(sums[i] - highest);
      all += p;
      right += question.right().get(i) ? p : 0;
    }
    return right / all;
  }

  /** A mean over questions and its standard error. */
  private static final class Mean {
    private int count;
    private double sum;
    private double squares;

    void add(double value) {
      count++;
      sum += value;
      squares += value * value;
    }

    void addTo(ObjectNode json, String key) {
      if (count > 0) {
        json.put(key, sum / count);
      }
      if (count > 1) {
        double variance = Math.max(0, squares - sum * sum / count) / (count - 1);
        json.put(key + "_stderr", Math.sqrt(variance / count));
      }
    }
  }
}
