package espalier.device;

import espalier.bindings.kernels.Kernels;
import java.util.Locale;

/** Of what type the elements of a matrix in device memory are. */
public enum ElementType {
  F32(Float.BYTES),
  /** The upper half of a float32 (8 bits of precision). */
  BF16(Short.BYTES);

  private final int bytes;

  ElementType(int bytes) {
    this.bytes = bytes;
  }

  public int bytes() {
    return bytes;
  }

  /** As {@code --dtype} has it. */
  public String label() {
    return name().toLowerCase(Locale.ROOT);
  }

  /** As esp_dtype numbers it. */
  public int code() {
    return switch (this) {
      case F32 -> Kernels.ESP_F32();
      case BF16 -> Kernels.ESP_BF16();
    };
  }
}
