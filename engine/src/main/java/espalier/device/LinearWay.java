package espalier.device;

import espalier.bindings.kernels.Kernels;
import java.util.Arrays;

/** How {@link espalier.device.Kernels#linear} computes: see esp_linear_way. */
public enum LinearWay {
  BY_SHAPE,
  SEPARATE,
  FUSED_NARROW,
  FUSED_WIDE,
  EXTRA_COLUMNS;

  static LinearWay of(int code) {
    return Arrays.stream(values()).filter(way -> way.code() == code).findFirst().orElseThrow();
  }

  int code() {
    return switch (this) {
      case BY_SHAPE -> Kernels.ESP_BY_SHAPE();
      case SEPARATE -> Kernels.ESP_SEPARATE();
      case FUSED_NARROW -> Kernels.ESP_FUSED_NARROW();
      case FUSED_WIDE -> Kernels.ESP_FUSED_WIDE();
      case EXTRA_COLUMNS -> Kernels.ESP_EXTRA_COLUMNS();
    };
  }
}
