package espalier.recipe;

import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.data.TokenRows;
import espalier.device.Device;
import espalier.distributed.Ranks;
import espalier.model.LanguageModel;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import espalier.sae.SaeWriter;
import espalier.sae.TrainableSae;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.function.BooleanSupplier;

/**
 * Evaluates an SAE in training, spliced in alone, and writes snapshots of it where they are asked
 * for.
 */
final class HeldOutEvaluator {

  private final Device device;
  private final TrainableSae sae;
  private final Sae folded;
  private final Evaluator evaluator;
  private final Optional<Path> snapshots;
  private final SaeWriter.Origin origin;

  /**
   * @param snapshots folder for them; empty for none, and on all ranks but the first
   * @param origin what the snapshots' files say the SAE belongs to
   */
  HeldOutEvaluator(
      Device device,
      Ranks ranks,
      LanguageModel model,
      TokenRows rows,
      int layer,
      TrainableSae sae,
      Optional<Path> snapshots,
      SaeWriter.Origin origin,
      BooleanSupplier stop) {
    this.device = device;
    this.sae = sae;
    this.snapshots = snapshots;
    this.origin = origin;
    folded = sae.folded(device);
    evaluator =
        new Evaluator(
            device, ranks, model, new TreeMap<>(Map.of(layer, folded)), Adapters.NONE, rows);
    evaluator.bind(device.allocate(evaluator.bytes())).stopWhen(stop);
  }

  /** The fields for the metrics after a step, on all ranks. */
  ObjectNode measure(long step) {
    sae.foldInto(device, folded);
    if (step > 0) {
      snapshots.ifPresent(all -> keep(HeldOutWatch.snapshot(all, step)));
    }
    return evaluator.again(done -> {}).toJson();
  }

  private void keep(Path folder) {
    try {
      Files.createDirectories(folder);
    } catch (IOException e) {
      throw new UncheckedIOException(folder + " cannot be made", e);
    }
    SaeWriter.write(device, folded, folder, origin);
  }
}
