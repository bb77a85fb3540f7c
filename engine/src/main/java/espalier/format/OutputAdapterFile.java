package espalier.format;

import espalier.tensor.Tensor;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * {@code output_adapter.safetensors}: adapters at the outputs of SAEs, in a layout of our own.
 * Layer L has the tensors {@code layer.L.down} {@code [rank, d]} and {@code layer.L.up} {@code [d,
 * rank]}. The entry {@code kind} of the metadata says what is between them: {@code linear} or
 * {@code mlp}.
 */
public final class OutputAdapterFile implements AutoCloseable {

  public static final String NAME = "output_adapter.safetensors";

  private static final Pattern TENSOR = Pattern.compile("layer\\.(0|[1-9]\\d{0,5})\\.(down|up)");

  private final Safetensors file;
  private final boolean linear;
  private final SortedMap<Integer, Maps> layers = new TreeMap<>();

  /** The two maps of a layer. */
  public record Maps(TensorEntry down, TensorEntry up) {
    public long rank() {
      return down.shape()[0];
    }
  }

  private OutputAdapterFile(Safetensors file) {
    this.file = file;
    String kind = file.metadata().getOrDefault("kind", "");
    if (!kind.equals("linear") && !kind.equals("mlp")) {
      throw new InputException(file.file(), "metadata kind is \"" + kind + "\", not linear or mlp");
    }
    linear = kind.equals("linear");
    for (String name : file.tensors().keySet()) {
      Matcher matcher = TENSOR.matcher(name);
      if (!matcher.matches()) {
        throw new InputException(file.file(), "tensor " + name + " belongs to no output adapter");
      }
      String layer = "layer." + matcher.group(1) + ".";
      Maps maps = new Maps(file.tensor(layer + "down"), file.tensor(layer + "up"));
      requireMatching(maps);
      layers.put(Integer.parseInt(matcher.group(1)), maps);
    }
    if (layers.isEmpty()) {
      throw new InputException(file.file(), "holds no adapter");
    }
  }

  private void requireMatching(Maps maps) {
    long[] down = maps.down.shape();
    long[] up = maps.up.shape();
    if (down.length != 2
        || up.length != 2
        || down[0] < 1
        || down[1] < 1
        || down[0] != up[1]
        || down[1] != up[0]) {
      throw new InputException(
          file.file(), "tensors " + maps.down.name() + " and " + maps.up.name() + " do not match");
    }
  }

  /** Whether a folder holds such a file. */
  public static boolean isIn(Path folder) {
    return Files.exists(folder.resolve(NAME));
  }

  public static OutputAdapterFile open(Path folder) {
    Safetensors file = Safetensors.open(folder.resolve(NAME));
    try {
      return new OutputAdapterFile(file);
    } catch (InputException e) {
      file.close();
      throw e;
    }
  }

  public boolean isLinear() {
    return linear;
  }

  public SortedMap<Integer, Maps> layers() {
    return layers;
  }

  /**
   * Writes a file.
   *
   * @param down by layer, {@code [rank, d]}
   * @param up by layer, {@code [d, rank]}
   */
  public static void write(
      Path folder, boolean linear, SortedMap<Integer, Tensor> down, SortedMap<Integer, Tensor> up) {
    List<Safetensors.Output> tensors = new ArrayList<>();
    down.forEach(
        (layer, tensor) -> {
          tensors.add(Safetensors.Output.matrix("layer." + layer + ".down", tensor));
          tensors.add(Safetensors.Output.matrix("layer." + layer + ".up", up.get(layer)));
        });
    Safetensors.write(
        folder.resolve(NAME), tensors, Map.of("kind", linear ? "linear" : "mlp", "format", "pt"));
  }

  @Override
  public void close() {
    file.close();
  }
}
