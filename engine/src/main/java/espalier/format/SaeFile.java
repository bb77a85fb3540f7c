package espalier.format;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Opens an SAE by its folder or its weights file and finds out what format it is in. */
public final class SaeFile implements AutoCloseable {

  /** TransformerLens, Hugging Face and sparsify names of a block's output. */
  private static final List<Pattern> BLOCK_OUTPUTS =
      List.of(
          Pattern.compile("blocks\\.(\\d{1,6})\\.hook_resid_post"),
          Pattern.compile("(?:model\\.)?layers\\.(\\d{1,6})(?:\\.output)?"));

  /** TransformerLens's name of a block's input. */
  private static final Pattern BLOCK_INPUT =
      Pattern.compile("blocks\\.(\\d{1,6})\\.hook_resid_pre");

  /** Formats that are recognised, by the file that only they have, to be refused by name. */
  private static final Map<String, String> OTHER_FORMATS =
      Map.of(
          "params.npz", "Gemma Scope",
          "params.safetensors", "Gemma Scope 2",
          "hyperparams.json", "Llama Scope",
          "ae.pt", "dictionary_learning");

  private static final String SUPPORTED =
      "supported are SAELens (%s) and sparsify (%s)".formatted(SaeLens.WEIGHTS, Sparsify.WEIGHTS);

  private final Safetensors file;
  private final SaeWeights weights;

  private SaeFile(Safetensors file, SaeWeights weights) {
    this.file = file;
    this.weights = weights;
  }

  public static SaeFile open(Path path) {
    if (!Files.exists(path)) {
      throw new InputException(path, "no such file or folder");
    }
    Path folder = Files.isDirectory(path) ? path : path.toAbsolutePath().getParent();
    if (isFor(path, folder, SaeLens.WEIGHTS)) {
      return open(folder.resolve(SaeLens.WEIGHTS), file -> SaeLens.read(folder, file));
    }
    if (isFor(path, folder, Sparsify.WEIGHTS)) {
      return open(folder.resolve(Sparsify.WEIGHTS), file -> Sparsify.read(folder, file));
    }
    OTHER_FORMATS.forEach(
        (file, format) -> {
          if (isFor(path, folder, file)) {
            throw new InputException(
                path, "is in the format of %s; %s".formatted(format, SUPPORTED));
          }
        });
    throw new InputException(path, "no SAE is found here; " + SUPPORTED);
  }

  public SaeWeights weights() {
    return weights;
  }

  @Override
  public void close() {
    file.close();
  }

  /** A folder that holds the weights file, or the file itself. */
  private static boolean isFor(Path path, Path folder, String weights) {
    return Files.isDirectory(path)
        ? Files.exists(folder.resolve(weights))
        : path.getFileName().toString().equals(weights);
  }

  private interface Reader {
    SaeWeights read(Safetensors file);
  }

  private static SaeFile open(Path path, Reader reader) {
    Safetensors file = Safetensors.open(path);
    try {
      return new SaeFile(file, reader.read(file));
    } catch (RuntimeException e) {
      file.close();
      throw e;
    }
  }

  /** The block whose output a hook name means; empty for other sites and no name. */
  static OptionalInt blockOf(String hook) {
    Matcher input = BLOCK_INPUT.matcher(hook);
    if (input.matches() && Integer.parseInt(input.group(1)) > 0) {
      return OptionalInt.of(Integer.parseInt(input.group(1)) - 1);
    }
    for (Pattern pattern : BLOCK_OUTPUTS) {
      Matcher matcher = pattern.matcher(hook);
      if (matcher.matches()) {
        return OptionalInt.of(Integer.parseInt(matcher.group(1)));
      }
    }
    return OptionalInt.empty();
  }

  /** Refuses tensors that the format does not have: leaving one out computes something else. */
  static void requireOnly(Safetensors file, Set<String> names) {
    for (String name : file.tensors().keySet()) {
      if (!names.contains(name)) {
        throw new InputException(file.file(), "tensor " + name + " is not understood");
      }
    }
  }

  /** Refuses sites other than a block's output; no name at all is taken on trust. */
  static void requireBlockOutput(Path file, String hook) {
    if (!hook.isEmpty() && blockOf(hook).isEmpty()) {
      throw new InputException(
          file, "hook " + hook + " is not supported, only the output of a block");
    }
  }
}
