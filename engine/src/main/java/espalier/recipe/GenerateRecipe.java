package espalier.recipe;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.data.Tokenizer;
import espalier.device.Device;
import espalier.format.InputException;
import espalier.format.ModelConfig;
import espalier.format.ModelFolder;
import espalier.format.PeftAdapter;
import espalier.lora.LoraAdapter;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.tensor.Tensor;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.SortedMap;
import java.util.SplittableRandom;
import java.util.stream.Collectors;

/**
 * {@code espalier generate}: continues a text with the model, with SAEs in it, adapted or not,
 * latents held where the user wants them.
 *
 * <p>The whole context is computed anew for every token, padded to its final length: attention is
 * causal, so what comes later changes nothing.
 */
public final class GenerateRecipe {

  private final GenerateSettings settings;
  private final Console console;

  public GenerateRecipe(GenerateSettings settings, Console console) {
    this.settings = settings;
    this.console = console;
  }

  /** The prompt's continuation, without the prompt. */
  public String run() {
    try (Device device = Device.open();
        Tokenizer tokenizer = Tokenizer.open(settings.model())) {
      ModelConfig config;
      LanguageModel model;
      SortedMap<Integer, Sae> saes;
      Adapters adapters = Adapters.NONE;
      try (ModelFolder files = ModelFolder.open(settings.model(), console::warn)) {
        config = files.config();
        SaeSpec.check(settings.saes(), config.numLayers());
        saes = Saes.load(device, settings.saes(), config, console).byLayer();
        model = LanguageModel.load(device, files);
      }
      if (settings.adapter().isPresent()) {
        adapters = adapters(device, model, settings.adapter().get());
      }
      for (Steering steering : settings.steer()) {
        if (steering.latent() >= saes.get(steering.layer()).latents()) {
          throw new InputException(
              "--steer %d:%d: the SAE has latents 0 to %d"
                  .formatted(
                      steering.layer(),
                      steering.latent(),
                      saes.get(steering.layer()).latents() - 1));
        }
      }
      int[] prompt = prompt(tokenizer, config);
      int[] ids = continued(device, model, saes, adapters, prompt);
      return tokenizer.decode(Arrays.copyOfRange(ids, prompt.length, ids.length));
    }
  }

  private Adapters adapters(Device device, LanguageModel model, Path path) {
    try (PeftAdapter file = PeftAdapter.open(path, console::warn)) {
      return LoraAdapter.load(device, model, file, 0).adapters().frozen();
    }
  }

  /** BOS, where model and tokenizer have one, and the prompt. */
  private int[] prompt(Tokenizer tokenizer, ModelConfig config) {
    int[] text = tokenizer.encode(settings.prompt());
    OptionalInt bos = tokenizer.hasBos() ? config.bos() : OptionalInt.empty();
    if (text.length == 0 && bos.isEmpty()) {
      throw new InputException("--prompt: is empty, and the model has no BOS to begin with");
    }
    int[] prompt = text;
    if (bos.isPresent()) {
      prompt = new int[text.length + 1];
      prompt[0] = bos.getAsInt();
      System.arraycopy(text, 0, prompt, 1, text.length);
    }
    if (prompt.length >= config.maxPositionEmbeddings()) {
      throw new InputException(
          "--prompt: has %d tokens, more than the model's max_position_embeddings, %d"
              .formatted(prompt.length, config.maxPositionEmbeddings()));
    }
    return prompt;
  }

  /** The prompt and what follows, up to the limit or an EOS, which is left out. */
  private int[] continued(
      Device device,
      LanguageModel model,
      SortedMap<Integer, Sae> saes,
      Adapters adapters,
      int[] prompt) {
    ModelConfig config = model.config();
    int length = Math.min(prompt.length + settings.maxTokens(), config.maxPositionEmbeddings());
    TokenBatch batch = new TokenBatch(device, 1, length, config.specialIds());
    Tape tape = new Tape(device);
    Var hidden =
        Streams.record(
                tape,
                model,
                batch,
                List.of(new Streams.Variant(saes, adapters).steered(steering())))
            .getFirst()
            .hidden();
    tape.output(hidden);
    tape.bind(device);
    Tensor logits = Tensor.allocate(device, 1, model.head().rows());
    Sampler sampler =
        new Sampler(settings.temperature(), settings.topP(), new SplittableRandom(settings.seed()));
    int[] ids = Arrays.copyOf(prompt, length);
    try (Console.Progress progress = console.progress("generate", length - prompt.length)) {
      for (int at = prompt.length; at < length; at++) {
        batch.set(0, ids);
        tape.forward();
        model.logits(device, hidden.value().rows(at - 1, 1), logits);
        int next = sampler.next(logits.toArray());
        if (config.eos().contains(next)) {
          return Arrays.copyOf(ids, at);
        }
        ids[at] = next;
        progress.step(at - prompt.length + 1, "");
      }
    }
    return ids;
  }

  private Map<Integer, List<Steering>> steering() {
    return settings.steer().stream().collect(Collectors.groupingBy(Steering::layer));
  }
}
