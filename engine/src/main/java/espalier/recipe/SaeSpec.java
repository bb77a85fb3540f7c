package espalier.recipe;

import espalier.format.InputException;
import java.nio.file.Path;
import java.util.List;

/**
 * An SAE and where it goes: {@code --sae LAYER=PATH}.
 *
 * @param layer the block whose output it replaces, counted from 0
 * @param path its folder or weights file
 */
public record SaeSpec(int layer, Path path) {

  public static SaeSpec parse(String text) {
    int equals = text.indexOf('=');
    if (equals < 1
        || equals == text.length() - 1
        || !text.substring(0, equals).matches("\\d{1,6}")) {
      throw new InputException(
          "--sae " + text + ": expected LAYER=PATH with a layer counted from 0");
    }
    return new SaeSpec(
        Integer.parseInt(text.substring(0, equals)), Path.of(text.substring(equals + 1)));
  }

  /** One SAE a layer, layers within the model. */
  static void check(List<SaeSpec> saes, int layers) {
    for (int i = 0; i < saes.size(); i++) {
      int layer = saes.get(i).layer;
      if (layer >= layers) {
        throw new InputException(
            "--sae %d=%s: the model has layers 0 to %d"
                .formatted(layer, saes.get(i).path, layers - 1));
      }
      for (int j = 0; j < i; j++) {
        if (saes.get(j).layer == layer) {
          throw new InputException("--sae: layer " + layer + " is given twice");
        }
      }
    }
  }
}
