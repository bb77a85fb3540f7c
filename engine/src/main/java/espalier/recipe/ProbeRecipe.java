package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.Records;
import espalier.data.Tokenizer;
import espalier.device.Device;
import espalier.format.InputException;
import espalier.format.Npy;
import espalier.format.StrictJson;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.OptionalInt;
import java.util.SequencedMap;
import java.util.TreeSet;
import java.util.function.Consumer;
import java.util.stream.IntStream;

/**
 * {@code espalier probe}: how well a text's label can be predicted from a few features: latents of
 * SAEs, or coordinates of activations, averaged over the text (sparse probing, Gurnee et al. 2023).
 *
 * <p>The k features are those whose means differ most between the label's texts and all others, in
 * the texts that probes are fitted on; a logistic regression on them is tested on the other file's.
 * With more than two labels a probe tells each from all others, and accuracies are averaged.
 */
public final class ProbeRecipe {

  private final ProbeSettings settings;
  private final Console console;

  public ProbeRecipe(ProbeSettings settings, Console console) {
    this.settings = settings;
    this.console = console;
  }

  private record Labelled(List<String> texts, List<String> labels) {}

  private record Features(SequencedMap<String, float[][]> byName, List<String> labels) {}

  /**
   * @param told of the result, before anything is written
   */
  public void run(Consumer<ObjectNode> told) {
    settings.features().ifPresent(folder -> OutputPath.checkFolder("--features", folder));
    Labelled train = read(settings.data());
    Labelled test = read(settings.evalData());
    List<String> labels = List.copyOf(new TreeSet<>(train.labels));
    if (labels.size() < 2) {
      throw new InputException(
          settings.data(),
          settings.label()
              + " is "
              + labels.getFirst()
              + " in all texts, but a probe needs two different labels");
    }
    for (String label : test.labels) {
      if (!labels.contains(label)) {
        throw new InputException(
            settings.evalData(),
            settings.label() + " " + label + " does not occur in " + settings.data());
      }
    }
    try (Device device = Device.open();
        Tokenizer tokenizer = Tokenizer.open(settings.model())) {
      Variants variants = Variants.load(device, settings, console);
      int last = variants.model().layers() - 1;
      int layer = settings.layer().orElse(last);
      if (layer > last) {
        throw new InputException("--layer " + layer + ": the model has layers 0 to " + last);
      }
      PooledFeatures pooled = new PooledFeatures(device, variants, layer);
      Features fitted = features(pooled, train, tokenizer, variants, "train");
      Features tested = features(pooled, test, tokenizer, variants, "eval");
      told.accept(result(fitted, tested, labels, layer));
      settings.features().ifPresent(folder -> write(folder, fitted, tested));
    }
  }

  private Labelled read(Path file) {
    List<String> texts = new ArrayList<>();
    List<String> labels = new ArrayList<>();
    for (StrictJson record : Records.read(file, List.of(), "text")) {
      texts.add(record.text("text"));
      if (!record.has(settings.label()) || record.raw(settings.label()).isContainerNode()) {
        throw record.fault(settings.label(), "is missing or no label");
      }
      labels.add(record.raw(settings.label()).asText());
    }
    return new Labelled(texts, labels);
  }

  private Features features(
      PooledFeatures pooled, Labelled data, Tokenizer tokenizer, Variants variants, String name) {
    OptionalInt bos = tokenizer.hasBos() ? variants.model().config().bos() : OptionalInt.empty();
    List<int[]> ids = new ArrayList<>();
    for (String text : data.texts) {
      int[] encoded = tokenizer.encode(text);
      int first = bos.isPresent() ? 1 : 0;
      int length = Math.min(first + encoded.length, variants.longest());
      int[] begun = new int[length];
      bos.ifPresent(id -> begun[0] = id);
      System.arraycopy(encoded, 0, begun, first, length - first);
      ids.add(begun);
    }
    try (Console.Progress progress = console.progress("probe " + name, ids.size())) {
      return new Features(pooled.of(ids, done -> progress.step(done, "")), data.labels);
    }
  }

  private static void write(Path folder, Features fitted, Features tested) {
    try {
      Files.createDirectories(folder);
    } catch (IOException e) {
      throw new UncheckedIOException(folder + " cannot be made", e);
    }
    write(folder, "train", fitted);
    write(folder, "eval", tested);
  }

  private static void write(Path folder, String name, Features features) {
    features.byName.forEach(
        (set, rows) ->
            Npy.write(
                folder.resolve(name + "." + set + ".npy"), rows.length, rows[0].length, rows));
  }

  private ObjectNode result(Features train, Features test, List<String> labels, int layer) {
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("train_texts", train.labels.size()).put("eval_texts", test.labels.size());
    json.put("layer", layer);
    labels.forEach(json.putArray("labels")::add);
    // Of two labels, telling one from the other is the whole task.
    List<String> told = labels.size() == 2 ? labels.subList(1, 2) : labels;
    json.put("majority", mean(told, label -> majority(train, test, label)));
    ObjectNode accuracy = json.putObject("accuracy");
    train.byName.forEach(
        (name, rows) -> {
          ObjectNode fields = accuracy.putObject(name);
          for (int k : settings.sizes()) {
            if (k < rows[0].length) {
              fields.put("k" + k, mean(told, label -> accuracy(train, test, name, label, k)));
            }
          }
          int all = rows[0].length;
          fields.put("all", mean(told, label -> accuracy(train, test, name, label, all)));
        });
    return json;
  }

  private interface OfLabel {
    double value(String label);
  }

  private static double mean(List<String> labels, OfLabel of) {
    return labels.stream().mapToDouble(of::value).average().orElseThrow();
  }

  private static double majority(Features train, Features test, String label) {
    boolean often = 2 * train.labels.stream().filter(label::equals).count() > train.labels.size();
    long right = test.labels.stream().filter(other -> other.equals(label) == often).count();
    return (double) right / test.labels.size();
  }

  private static double accuracy(Features train, Features test, String name, String label, int k) {
    float[][] x = train.byName.get(name);
    boolean[] y = isLabel(train.labels, label);
    int[] chosen = LabelDifference.largest(x, y, k);
    LogisticRegression probe = LogisticRegression.fit(columns(x, chosen), y);
    float[][] held = columns(test.byName.get(name), chosen);
    boolean[] truth = isLabel(test.labels, label);
    long right =
        IntStream.range(0, held.length).filter(i -> probe.predict(held[i]) == truth[i]).count();
    return (double) right / held.length;
  }

  private static boolean[] isLabel(List<String> labels, String label) {
    boolean[] is = new boolean[labels.size()];
    for (int i = 0; i < is.length; i++) {
      is[i] = labels.get(i).equals(label);
    }
    return is;
  }

  private static float[][] columns(float[][] x, int[] chosen) {
    return Arrays.stream(x)
        .map(
            row -> {
              float[] some = new float[chosen.length];
              for (int j = 0; j < chosen.length; j++) {
                some[j] = row[chosen[j]];
              }
              return some;
            })
        .toArray(float[][]::new);
  }

  /** Which features differ most between texts with a label and without it. */
  static final class LabelDifference {

    private LabelDifference() {}

    static int[] largest(float[][] x, boolean[] y, int k) {
      int width = x[0].length;
      double[] difference = new double[width];
      long positives = IntStream.range(0, y.length).filter(i -> y[i]).count();
      long negatives = y.length - positives;
      for (int i = 0; i < y.length; i++) {
        for (int j = 0; j < width; j++) {
          difference[j] += y[i] ? x[i][j] / (double) positives : -x[i][j] / (double) negatives;
        }
      }
      return IntStream.range(0, width)
          .boxed()
          .sorted(Comparator.comparingDouble((Integer j) -> -Math.abs(difference[j])))
          .limit(k)
          .mapToInt(Integer::intValue)
          .toArray();
    }
  }
}
