package espalier.format;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Set;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** Opens an SAE and finds out its format. It is given by its folder or by its weights file. */
public final class SaeFile implements AutoCloseable {

  private static final String SUPPORTED =
      "supported are SAELens, sparsify, Gemma Scope 1 and 2, Llama Scope and dictionary_learning";

  private static final List<String> WEIGHTS =
      List.of(
          SaeLens.WEIGHTS,
          Sparsify.WEIGHTS,
          GemmaScope.WEIGHTS,
          GemmaScope2.WEIGHTS,
          LlamaScope.CONFIG,
          DictionaryLearning.WEIGHTS);

  /** The names of dictionary_learning's checkpoints, whose configuration is one folder up. */
  private static final Pattern CHECKPOINT = Pattern.compile("ae_\\d{1,12}\\.pt");

  private final TensorFile file;
  private final SaeWeights weights;

  private SaeFile(TensorFile file, SaeWeights weights) {
    this.file = file;
    this.weights = weights;
  }

  public static SaeFile open(Path path) {
    if (!Files.exists(path)) {
      throw new InputException(path, "no such file or folder");
    }
    boolean isFolder = Files.isDirectory(path);
    Path folder = isFolder ? path : path.toAbsolutePath().getParent();
    String name = isFolder ? "" : path.getFileName().toString();
    refuseCrossLayer(path, folder, name);
    if (isFor(folder, name, SaeLens.WEIGHTS)) {
      Path file = folder.resolve(SaeLens.WEIGHTS);
      boolean distilled =
          !Files.exists(folder.resolve(SaeLens.CONFIG))
              && Files.exists(folder.resolve("config.json"));
      return open(
          Safetensors.open(file),
          tensors ->
              distilled
                  ? LlamaScope.readDistilled(folder, tensors)
                  : SaeLens.read(folder, tensors));
    }
    if (isFor(folder, name, Sparsify.WEIGHTS)) {
      return open(
          Safetensors.open(folder.resolve(Sparsify.WEIGHTS)),
          tensors -> Sparsify.read(folder, tensors));
    }
    if (isFor(folder, name, GemmaScope2.WEIGHTS)) {
      Path config = folder.resolve("config.json");
      return open(
          Safetensors.open(folder.resolve(GemmaScope2.WEIGHTS)),
          tensors ->
              GemmaScope2.read(
                  folder, tensors, Files.exists(config) ? StrictJson.read(config) : null));
    }
    if (isFor(folder, name, GemmaScope.WEIGHTS)) {
      return open(
          Npz.open(folder.resolve(GemmaScope.WEIGHTS)),
          tensors -> GemmaScope.read(folder, tensors));
    }
    if (isFor(folder, name, DictionaryLearning.WEIGHTS) || CHECKPOINT.matcher(name).matches()) {
      Path file = folder.resolve(name.isEmpty() ? DictionaryLearning.WEIGHTS : name);
      return open(TorchFile.open(file), tensors -> DictionaryLearning.read(folder, tensors));
    }
    if (isFor(folder, name, LlamaScope.CONFIG)) {
      return llamaScope(folder);
    }
    if (name.equals(LlamaScope.WEIGHTS) && folder.getParent() != null) {
      return llamaScope(folder.getParent());
    }
    throw new InputException(path, "no SAE is found here; " + SUPPORTED);
  }

  private static SaeFile llamaScope(Path folder) {
    return open(
        Safetensors.open(folder.resolve("checkpoints").resolve(LlamaScope.WEIGHTS)),
        tensors -> LlamaScope.read(folder, tensors));
  }

  private static void refuseCrossLayer(Path path, Path folder, String name) {
    boolean crossLayer = GemmaScope2.CROSS_LAYER.matcher(name).matches();
    if (name.isEmpty()) {
      try (Stream<Path> files = Files.list(folder)) {
        crossLayer =
            files
                .map(file -> file.getFileName().toString())
                .anyMatch(file -> GemmaScope2.CROSS_LAYER.matcher(file).matches());
      } catch (IOException e) {
        throw new InputException(path, "cannot be read");
      }
    }
    if (crossLayer) {
      throw new InputException(
          path, "is a cross-layer transcoder of Gemma Scope 2, which is not supported");
    }
  }

  /** Whether a folder holds the weights of an SAE, in any format. */
  public static boolean isIn(Path folder) {
    return WEIGHTS.stream().anyMatch(name -> Files.exists(folder.resolve(name)));
  }

  public SaeWeights weights() {
    return weights;
  }

  @Override
  public void close() {
    file.close();
  }

  /** Whether a path is a folder that holds the file, or the file itself. */
  private static boolean isFor(Path folder, String name, String file) {
    return name.isEmpty() ? Files.exists(folder.resolve(file)) : name.equals(file);
  }

  private interface Reader {
    SaeWeights read(TensorFile file);
  }

  private static SaeFile open(TensorFile file, Reader reader) {
    try {
      return new SaeFile(file, reader.read(file));
    } catch (RuntimeException e) {
      file.close();
      throw e;
    }
  }

  /**
   * Refuses tensors that the format does not have: leaving one out would compute something else.
   */
  static void requireOnly(TensorFile file, Set<String> names) {
    for (String name : file.tensors().keySet()) {
      if (!names.contains(name)) {
        throw new InputException(file.file(), "tensor " + name + " is not understood");
      }
    }
  }
}
