package espalier.recipe;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import espalier.Golden;
import espalier.device.Device;
import espalier.format.InputException;
import espalier.model.LanguageModel;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** What {@code --targets} names in families whose layers have different names. */
class AdapterChoiceTest {

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "llama | attn | self_attn.k_proj self_attn.o_proj self_attn.q_proj self_attn.v_proj",
        "llama | mlp | mlp.down_proj mlp.gate_proj mlp.up_proj",
        "llama | q_proj,mlp.up_proj | mlp.up_proj self_attn.q_proj",
        "gpt2 | both | attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj",
        "gpt2 | all-linear | attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj",
        "gpt2 | attn | attn.c_attn attn.c_proj",
        "gpt2 | c_proj | attn.c_proj mlp.c_proj",
        "gpt2 | attn.c_proj | attn.c_proj",
        "gpt_neox | attn | attention.dense attention.query_key_value",
        "gpt_neox | mlp | mlp.dense_4h_to_h mlp.dense_h_to_4h",
        "gpt_neox | dense | attention.dense"
      })
  void layersOfOneBlock(String family, String targets, String names) {
    try (Device device = Device.open()) {
      LanguageModel model = Golden.model(device, "../families/" + family + "/model");
      assertEquals(
          names
              .lines()
              .flatMap(n -> Set.of(n.split(" ")).stream())
              .map(model.blockPath(1)::concat)
              .sorted()
              .toList(),
          AdapterChoice.paths(targets, Set.of(1), model.config()).stream().toList());
    }
  }

  @Test
  void refusesWhatNoLayerIsCalled() {
    try (Device device = Device.open()) {
      LanguageModel model = Golden.model(device, "../families/gpt2/model");
      InputException e =
          assertThrows(
              InputException.class,
              () -> AdapterChoice.paths("c_attn,q_proj", Set.of(0), model.config()));
      assertTrue(e.getMessage().contains("no layer q_proj, only c_attn, c_fc, c_proj"));
    }
  }
}
