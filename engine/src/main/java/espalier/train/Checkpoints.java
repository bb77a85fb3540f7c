package espalier.train;

import espalier.device.Transfer;
import espalier.format.InputException;
import espalier.format.Safetensors;
import espalier.format.TensorEntry;
import espalier.tensor.Tensor;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * The state of a training run on disk: all trained parameters and both moments as flat tensors,
 * other state that the run depends on, and the step in the metadata. Files are written atomically
 * and the two newest are kept, so that one is usable at every moment.
 */
public final class Checkpoints {

  private static final int KEPT = 2;
  private static final Pattern NAME = Pattern.compile("step-(\\d{1,12})\\.safetensors");

  private final Path folder;
  private final String fingerprint;
  private final List<Tensor> state;

  /**
   * @param fingerprint of all settings that the result depends on; a checkpoint with another one is
   *     refused
   */
  public Checkpoints(Path folder, String fingerprint) {
    this(folder, fingerprint, List.of());
  }

  /**
   * @param fingerprint as above
   * @param state what else the run depends on beside parameters and moments, always in the same
   *     order; {@link Saved#restore} overwrites it
   */
  public Checkpoints(Path folder, String fingerprint, List<Tensor> state) {
    this.folder = folder;
    this.fingerprint = fingerprint;
    this.state = state;
  }

  /** A checkpoint as found on disk. */
  public record Saved(Path file, long step, double seconds, List<Tensor> state) {

    /** Overwrites parameters and moments, bit for bit as they were. */
    public void restore(AdamW optimizer) {
      try (Safetensors tensors = Safetensors.open(file)) {
        copy(tensors, "parameters", optimizer.parameters().values());
        copy(tensors, "first_moment", optimizer.firstMoment());
        copy(tensors, "second_moment", optimizer.secondMoment());
        for (int i = 0; i < state.size(); i++) {
          copy(tensors, stateName(i), state.get(i));
        }
      }
    }

    private static void copy(Safetensors tensors, String name, Tensor target) {
      TensorEntry entry = tensors.tensor(name, target.size());
      Transfer.copy(entry.data(), target.bytes());
    }
  }

  /**
   * @return the file
   */
  public Path write(long step, double seconds, AdamW optimizer) {
    try {
      Files.createDirectories(folder);
    } catch (IOException e) {
      throw new UncheckedIOException(folder + " cannot be made", e);
    }
    Path file = folder.resolve(String.format(Locale.ROOT, "step-%06d.safetensors", step));
    List<Safetensors.Output> tensors = new ArrayList<>();
    tensors.add(Safetensors.Output.vector("parameters", optimizer.parameters().values()));
    tensors.add(Safetensors.Output.vector("first_moment", optimizer.firstMoment()));
    tensors.add(Safetensors.Output.vector("second_moment", optimizer.secondMoment()));
    for (int i = 0; i < state.size(); i++) {
      tensors.add(Safetensors.Output.vector(stateName(i), state.get(i)));
    }
    Safetensors.write(
        file,
        tensors,
        Map.of(
            "step", String.valueOf(step),
            "seconds", String.valueOf(seconds),
            "fingerprint", fingerprint));
    files().skip(KEPT).forEach(Checkpoints::delete);
    return file;
  }

  private static String stateName(int index) {
    return "state." + index;
  }

  public Optional<Path> latestFile() {
    return files().findFirst();
  }

  /** The newest checkpoint; refuses one that another configuration wrote. */
  public Optional<Saved> latest() {
    return latestFile().map(this::open);
  }

  private Saved open(Path file) {
    try (Safetensors tensors = Safetensors.open(file)) {
      Map<String, String> metadata = tensors.metadata();
      if (!fingerprint.equals(metadata.get("fingerprint"))) {
        throw new InputException(
            file,
            "was written with other settings; --resume needs the settings of the run that it continues");
      }
      return new Saved(
          file,
          Long.parseLong(metadata.getOrDefault("step", "")),
          Double.parseDouble(metadata.getOrDefault("seconds", "")),
          state);
    } catch (NumberFormatException e) {
      throw new InputException(file, "is no checkpoint: its metadata lack step or seconds");
    }
  }

  /** Newest first. */
  private Stream<Path> files() {
    if (!Files.isDirectory(folder)) {
      return Stream.empty();
    }
    try (Stream<Path> all = Files.list(folder)) {
      return all
          .filter(f -> NAME.matcher(f.getFileName().toString()).matches())
          .sorted(Comparator.comparingLong(Checkpoints::stepOf).reversed())
          .toList()
          .stream();
    } catch (IOException e) {
      throw new UncheckedIOException(folder + " cannot be listed", e);
    }
  }

  private static long stepOf(Path file) {
    Matcher name = NAME.matcher(file.getFileName().toString());
    if (!name.matches()) {
      throw new IllegalArgumentException("no checkpoint: " + file);
    }
    return Long.parseLong(name.group(1));
  }

  private static void delete(Path file) {
    try {
      Files.deleteIfExists(file);
    } catch (IOException e) {
      throw new UncheckedIOException(file + " cannot be deleted", e);
    }
  }
}
