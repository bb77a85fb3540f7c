package espalier.device;

import espalier.bindings.kernels.Kernels;
import java.util.Locale;

/** The types of elements of matrices in device memory. */
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

  /** The name in {@code --dtype}. */
  public String label() {
    return name().toLowerCase(Locale.ROOT);
  }

  /** The number in esp_dtype. */
  public int code() {
    return switch (this) {
      case F32 -> Kernels.ESP_F32();
      case BF16 -> Kernels.ESP_BF16();
    };
  }
}
