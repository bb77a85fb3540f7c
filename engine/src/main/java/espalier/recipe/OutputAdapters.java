package espalier.recipe;

import espalier.autograd.Parameter;
import espalier.autograd.ParameterSet;
import espalier.device.Device;
import espalier.format.InputException;
import espalier.format.OutputAdapterFile;
import espalier.format.TensorEntry;
import espalier.lora.OutputAdapter;
import espalier.sae.Sae;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;

/** Loads adapters behind SAEs' outputs, for evaluations. */
final class OutputAdapters {

  private OutputAdapters() {}

  /**
   * @param saes that they belong to, by layer
   */
  static SortedMap<Integer, OutputAdapter> load(
      Device device, Path folder, SortedMap<Integer, Sae> saes) {
    try (OutputAdapterFile file = OutputAdapterFile.open(folder)) {
      List<ParameterSet.Shape> shapes = new ArrayList<>();
      file.layers()
          .forEach(
              (layer, maps) -> {
                Sae sae = saes.get(layer);
                if (sae == null || sae.outputs() != maps.down().shape()[1]) {
                  throw new InputException(
                      folder,
                      "has an adapter for an SAE of layer %d and width %d, but no such --sae is given"
                          .formatted(layer, maps.down().shape()[1]));
                }
                shapes.addAll(
                    OutputAdapter.shapes("layer." + layer + ".", maps.rank(), sae.outputs()));
              });
      ParameterSet parameters = new ParameterSet(device, shapes);
      OutputAdapter.Kind kind =
          file.isLinear() ? OutputAdapter.Kind.LINEAR : OutputAdapter.Kind.MLP;
      SortedMap<Integer, OutputAdapter> adapters = new TreeMap<>();
      file.layers()
          .forEach(
              (layer, maps) -> {
                OutputAdapter adapter = OutputAdapter.of(parameters, "layer." + layer + ".", kind);
                read(device, maps.down(), adapter.down());
                read(device, maps.up(), adapter.up());
                adapters.put(layer, adapter.frozen());
              });
      parameters.round(device.kernels());
      return adapters;
    }
  }

  private static void read(Device device, TensorEntry entry, Parameter parameter) {
    entry.expect(parameter.rows(), parameter.cols()).copyTo(device, parameter.value());
  }
}
