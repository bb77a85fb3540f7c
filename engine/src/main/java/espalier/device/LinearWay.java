package espalier.device;

import espalier.bindings.kernels.Kernels;

/** How {@link espalier.device.Kernels#linear} computes: see esp_linear_way. */
public enum LinearWay {
  BY_SHAPE,
  SEPARATE,
  FUSED_NARROW,
  FUSED_WIDE;

  int code() {
    return switch (this) {
      case BY_SHAPE -> Kernels.ESP_BY_SHAPE();
      case SEPARATE -> Kernels.ESP_SEPARATE();
      case FUSED_NARROW -> Kernels.ESP_FUSED_NARROW();
      case FUSED_WIDE -> Kernels.ESP_FUSED_WIDE();
    };
  }
}
