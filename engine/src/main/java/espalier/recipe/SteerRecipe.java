package espalier.recipe;

import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.Texts;
import espalier.data.Tokenizer;
import espalier.device.Device;
import espalier.device.ElementType;
import espalier.format.InputException;
import espalier.sae.Push;
import espalier.sae.Sae;
import espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalInt;

/**
 * {@code espalier steer}: adds multiples of a latent's decoder direction to the residual stream,
 * and measures the mean log-likelihood of the next token in texts that the latent stands for, and
 * in others.
 */
public final class SteerRecipe {

  private final SteerSettings settings;
  private final Console console;

  public SteerRecipe(SteerSettings settings, Console console) {
    this.settings = settings;
    this.console = console;
  }

  public ObjectNode run() {
    try (Device device = Device.open();
        Tokenizer tokenizer = Tokenizer.open(settings.model())) {
      Variants variants = Variants.load(device, settings, console);
      Tensor direction = direction(device, variants.saes().get(settings.layer()));
      List<SpanScorer.Span> spans = spans(settings.positive(), tokenizer, variants);
      int positives = spans.size();
      spans.addAll(spans(settings.negative(), tokenizer, variants));
      SpanScorer.Workspace workspace = new SpanScorer.Workspace(device);
      ObjectNode json = JsonNodeFactory.instance.objectNode();
      json.put("layer", settings.layer()).put("latent", settings.latent());
      json.put("positive_texts", positives).put("negative_texts", spans.size() - positives);
      ArrayNode points = json.putArray("points");
      int total = spans.size() * settings.strengths().size();
      try (Console.Progress progress = console.progress("steer", total)) {
        for (double strength : settings.strengths()) {
          int before = spans.size() * points.size();
          Push push = new Push(direction, (float) strength);
          SpanScorer scorer =
              new SpanScorer(
                  device,
                  variants.model(),
                  variants.byName().values().stream()
                      .map(variant -> variant.pushed(settings.layer(), push))
                      .toList(),
                  variants.longest(),
                  workspace);
          double[][] sums = scorer.score(spans, done -> progress.step(before + done, ""));
          ObjectNode point = points.addObject().put("strength", strength);
          for (int v = 0; v < sums.length; v++) {
            ObjectNode fields = point.putObject(variants.names().get(v));
            fields.put("positive", mean(spans, sums[v], 0, positives));
            fields.put("negative", mean(spans, sums[v], positives, spans.size()));
          }
        }
      }
      return json;
    }
  }

  /** The latent's decoder row, at norm 1. */
  private Tensor direction(Device device, Sae sae) {
    if (settings.latent() >= sae.latents()) {
      throw new InputException(
          "--latent %d:%d: the SAE has latents 0 to %d"
              .formatted(settings.layer(), settings.latent(), sae.latents() - 1));
    }
    float[] row = sae.wDec().value().rows(settings.latent(), 1).toArray();
    double squares = 0;
    for (float value : row) {
      squares += (double) value * value;
    }
    if (squares == 0) {
      throw new InputException(
          "--latent %d:%d: its decoder row is zero, so it steers nowhere"
              .formatted(settings.layer(), settings.latent()));
    }
    for (int i = 0; i < row.length; i++) {
      row[i] = (float) (row[i] / Math.sqrt(squares));
    }
    Tensor unit = Tensor.allocate(device, 1, row.length);
    unit.copyFrom(row);
    Tensor direction = Tensor.allocate(device, 1, row.length, device.type());
    device
        .kernels()
        .convert(unit.data(), ElementType.F32.code(), direction.data(), row.length, device.type());
    return direction;
  }

  /**
   * All tokens of each text but the first (BOS, or else its first token), which nothing predicts.
   */
  private List<SpanScorer.Span> spans(Path file, Tokenizer tokenizer, Variants variants) {
    OptionalInt bos = tokenizer.hasBos() ? variants.model().config().bos() : OptionalInt.empty();
    List<SpanScorer.Span> spans = new ArrayList<>();
    for (String text : Texts.read(file)) {
      int[] ids = tokenizer.encode(text);
      if (bos.isPresent()) {
        int[] begun = new int[ids.length + 1];
        begun[0] = bos.getAsInt();
        System.arraycopy(ids, 0, begun, 1, ids.length);
        ids = begun;
      }
      if (ids.length < 2) {
        throw new InputException(
            file,
            "text "
                + (spans.size() + 1)
                + " has fewer than two tokens, so there is nothing to predict");
      }
      spans.add(
          new SpanScorer.Span(Arrays.copyOf(ids, Math.min(ids.length, variants.longest())), 1));
    }
    return spans;
  }

  /** Nats per token, over all tokens of these texts. */
  private static double mean(List<SpanScorer.Span> spans, double[] sums, int from, int to) {
    double sum = 0;
    long tokens = 0;
    for (int i = from; i < to; i++) {
      sum += sums[i];
      tokens += spans.get(i).tokens();
    }
    return sum / tokens;
  }
}
