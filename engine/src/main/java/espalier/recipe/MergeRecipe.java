package espalier.recipe;

import com.fasterxml.jackson.databind.node.JsonNodeFactory;
import com.fasterxml.jackson.databind.node.ObjectNode;
import espalier.device.Device;
import espalier.format.AtomicFiles;
import espalier.format.AtomicFolder;
import espalier.format.DType;
import espalier.format.InputException;
import espalier.format.ModelFolder;
import espalier.format.PeftAdapter;
import espalier.format.Safetensors;
import espalier.format.SafetensorsWriter;
import espalier.format.StrictJson;
import espalier.format.TensorEntry;
import espalier.lora.MergedWeight;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.SortedSet;
import java.util.TreeMap;
import java.util.TreeSet;

/**
 * {@code espalier merge}: writes the model with an adapter's updates in its weights, so that any
 * tool runs it. Goes through the files tensor by tensor, so that neither model is ever in memory as
 * a whole.
 */
public final class MergeRecipe {

  /** What belongs to a model besides weights and configuration, where it is there. */
  private static final List<String> COMPANIONS =
      List.of(
          "generation_config.json",
          "tokenizer.json",
          "tokenizer.model",
          "tokenizer_config.json",
          "special_tokens_map.json",
          "added_tokens.json",
          "vocab.json",
          "merges.txt",
          "chat_template.jinja",
          "chat_template.json");

  /** The share of an update that rounding may change before the user is warned. */
  private static final double MUCH = 0.05;

  private static final long ELEMENTS = 1L << 20;

  private final MergeSettings settings;
  private final Console console;

  public MergeRecipe(MergeSettings settings, Console console) {
    this.settings = settings;
    this.console = console;
  }

  /** What was merged, and what rounding cost. */
  public ObjectNode run() {
    if (!AtomicFolder.isFree(settings.out())) {
      throw new InputException(
          "--out " + settings.out() + ": holds other files; give a folder that is new or empty");
    }
    OutputPath.checkFolder("--out", settings.out());
    try (Device device = Device.openCpu();
        ModelFolder model = ModelFolder.open(settings.model(), console::warn);
        PeftAdapter adapter = PeftAdapter.open(settings.adapter(), console::warn)) {
      Map<TensorEntry, MergedWeight> merged = merged(model, adapter);
      long tensors = model.files().stream().mapToLong(file -> file.tensors().size()).sum();
      try (Console.Progress progress = console.progress("merge", tensors)) {
        AtomicFolder.write(
            settings.out(), folder -> write(folder, device, model, merged, progress));
      }
      return result(merged);
    }
  }

  private static Map<TensorEntry, MergedWeight> merged(ModelFolder model, PeftAdapter adapter) {
    adapter.requireFits(model.config());
    boolean transposed = model.config().family().storesTransposed();
    Map<TensorEntry, MergedWeight> merged = new TreeMap<>(Comparator.comparing(TensorEntry::name));
    adapter
        .layers()
        .forEach(
            (path, layer) -> {
              TensorEntry weight = model.tensor(path + ".weight");
              merged.put(weight, new MergedWeight(weight, layer, adapter.scale(layer), transposed));
            });
    return merged;
  }

  private void write(
      Path folder,
      Device device,
      ModelFolder model,
      Map<TensorEntry, MergedWeight> merged,
      Console.Progress progress) {
    long[] done = {0};
    for (Safetensors file : model.files()) {
      List<TensorEntry> entries = new ArrayList<>(file.tensors().values());
      entries.sort(Comparator.comparingLong(entry -> entry.data().address()));
      List<SafetensorsWriter.Part> parts = new ArrayList<>();
      for (TensorEntry entry : entries) {
        DType dtype = dtype(entry);
        parts.add(
            new SafetensorsWriter.Part(
                entry.name(),
                dtype,
                entry.shape(),
                channel -> {
                  MergedWeight sum = merged.get(entry);
                  if (sum != null) {
                    sum.writeTo(channel, device, dtype);
                  } else if (dtype == entry.dtype()) {
                    AtomicFiles.writeFully(channel, entry.data());
                  } else {
                    convert(channel, device, entry);
                  }
                  progress.step(++done[0], "");
                }));
      }
      SafetensorsWriter.write(folder.resolve(file.file().getFileName()), parts, file.metadata());
    }
    for (String name : COMPANIONS) {
      Path file = model.folder().resolve(name);
      if (Files.isRegularFile(file)) {
        AtomicFiles.copy(file, folder.resolve(name));
      }
    }
    Path index = model.folder().resolve(ModelFolder.INDEX);
    if (Files.exists(index)) {
      long bytes =
          model.files().stream()
              .flatMap(f -> f.tensors().values().stream())
              .mapToLong(e -> e.size() * dtype(e).bytes())
              .sum();
      ObjectNode json = StrictJson.read(index).toObjectNode();
      json.putObject("metadata").put("total_size", bytes);
      AtomicFiles.write(folder.resolve(ModelFolder.INDEX), json);
    }
    Path config = model.folder().resolve(ModelFolder.CONFIG);
    ObjectNode json = model.config().source().deepCopy();
    if (settings.toF32()) {
      json.put(json.has("torch_dtype") ? "torch_dtype" : "dtype", "float32");
    }
    if (json.equals(StrictJson.read(config).toObjectNode())) {
      AtomicFiles.copy(config, folder.resolve(ModelFolder.CONFIG));
      return;
    }
    AtomicFiles.write(folder.resolve(ModelFolder.CONFIG), json);
  }

  private ObjectNode result(Map<TensorEntry, MergedWeight> merged) {
    double update = 0;
    double loss = 0;
    SortedSet<String> dtypes = new TreeSet<>();
    for (Map.Entry<TensorEntry, MergedWeight> entry : merged.entrySet()) {
      update = Math.hypot(update, entry.getValue().updateNorm());
      loss = Math.hypot(loss, entry.getValue().lossNorm());
      dtypes.add(dtype(entry.getKey()).name());
    }
    double share = update == 0 ? 0 : loss / update;
    if (share > MUCH) {
      console.warn(
          "rounding to %s changes the adapter's update by %.1f %% (in norm); --dtype f32 keeps it exact"
              .formatted(String.join(", ", dtypes), 100 * share));
    }
    ObjectNode json = JsonNodeFactory.instance.objectNode();
    json.put("merged_layers", merged.size());
    json.put("dtype", String.join(", ", dtypes));
    json.put("rounding_loss", share);
    return json;
  }

  private DType dtype(TensorEntry entry) {
    return settings.toF32() && entry.dtype().isFloat() ? DType.F32 : entry.dtype();
  }

  private static void convert(FileChannel channel, Device device, TensorEntry entry)
      throws IOException {
    try (Arena arena = Arena.ofConfined()) {
      long most = Math.clamp(entry.size(), 1, ELEMENTS);
      Tensor part = Tensor.of(arena.allocate(most * Float.BYTES, 64), 1, most);
      for (long at = 0; at < entry.size(); at += most) {
        long n = Math.min(most, entry.size() - at);
        entry.copyTo(device, at, part.columns(0, n));
        AtomicFiles.writeFully(channel, part.data().asSlice(0, n * Float.BYTES));
      }
    }
  }
}
