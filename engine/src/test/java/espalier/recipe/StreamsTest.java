package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotSame;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Golden;
import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.format.SaeSite;
import espalier.model.LanguageModel;
import espalier.model.TokenBatch;
import espalier.nn.Adapters;
import espalier.sae.Sae;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** What is the same for several variants is recorded once, wherever SAEs are applied. */
class StreamsTest {

  private static final int LAYER = 1;

  @ParameterizedTest
  @EnumSource(
      value = SaeSite.Kind.class,
      names = {"RESIDUAL", "ATTENTION_MODULE_OUT", "ATTENTION_OUT", "MLP_MODULE_OUT", "MLP_OUT"})
  void variantsPartWhereTheyDiffer(SaeSite.Kind site) {
    try (Device device = Device.open()) {
      LanguageModel model = Golden.model(device, "llama");
      TokenBatch batch = Golden.batch(device, model.config());
      Sae s = Golden.sae(device, "topk");
      Sae sae =
          new Sae(
              site,
              s.activation(),
              s.k(),
              s.wEnc(),
              s.bEnc(),
              s.bPre(),
              s.wDec(),
              s.bDec(),
              s.threshold(),
              s.skip(),
              s.normalisation(),
              s.restoresScale());
      TreeMap<Integer, Sae> saes = new TreeMap<>(Map.of(LAYER, sae));
      List<List<Var>> outputs = new ArrayList<>();
      List<Streams.Pass> passes =
          Streams.record(
              new Tape(device),
              model,
              batch,
              List.of(
                  Streams.Variant.ORIGINAL,
                  new Streams.Variant(saes, Adapters.NONE),
                  new Streams.Variant(saes, Adapters.NONE),
                  Streams.Variant.ablated(saes)),
              (layer, streams, splices) -> {
                outputs.add(List.copyOf(streams));
                assertEquals(layer >= LAYER, splices.get(1).containsKey(LAYER));
              });
      assertSame(outputs.get(0).get(0), outputs.get(0).get(1));
      assertSame(outputs.get(0).get(0), outputs.get(0).get(3));
      for (List<Var> streams : outputs.subList(LAYER, outputs.size())) {
        assertNotSame(streams.get(0), streams.get(1));
        assertSame(streams.get(1), streams.get(2));
        assertNotSame(streams.get(1), streams.get(3));
      }
      assertSame(passes.get(1).splices().get(LAYER), passes.get(2).splices().get(LAYER));
      assertTrue(passes.get(3).splices().isEmpty());
    }
  }
}
