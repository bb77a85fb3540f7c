package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.TokenCache;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.model.LanguageModel;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.SaeWriter;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;

/** Evaluates an SAE on held-out text while it is trained, and can keep it as it then is. */
public final class HeldOutWatch implements TrainSaeRecipe.Watch {

  private final Path data;
  private final int layer;
  private final int every;
  private final Optional<Path> snapshots;
  private Evaluator evaluator;

  /**
   * @param snapshots where {@link #snapshot} says each SAE is kept; empty to keep none
   */
  public HeldOutWatch(Path data, int layer, int every, Optional<Path> snapshots) {
    this.data = data;
    this.layer = layer;
    this.every = every;
    this.snapshots = snapshots;
  }

  /** The SAE as it was after a step. */
  public static Path snapshot(Path snapshots, long step) {
    return snapshots.resolve(String.format(Locale.ROOT, "step-%06d", step));
  }

  @Override
  public int every() {
    return every;
  }

  @Override
  public ObjectNode measure(
      Device device,
      Ranks ranks,
      LanguageModel model,
      Path modelFolder,
      int context,
      Sae sae,
      long step) {
    if (evaluator == null) {
      TokenRows rows =
          TokenRows.read(List.of(data), model.config(), modelFolder, context, TokenCache.NONE);
      evaluator =
          new Evaluator(
              device, ranks, model, new TreeMap<>(Map.of(layer, sae)), Adapters.NONE, rows);
      evaluator.bind(device.allocate(evaluator.bytes()));
    }
    if (snapshots.isPresent() && step > 0 && ranks.isFirst()) {
      Path folder = snapshot(snapshots.get(), step);
      try {
        Files.createDirectories(folder);
      } catch (IOException e) {
        throw new UncheckedIOException(folder + " cannot be made", e);
      }
      boolean bos = model.config().bos().isPresent();
      String name = modelFolder.getFileName().toString();
      SaeWriter.write(device, sae, folder, new SaeWriter.Origin(layer, name, context, bos));
    }
    return evaluator.again(done -> {}).toJson();
  }
}
