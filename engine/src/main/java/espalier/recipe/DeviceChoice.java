package espalier.recipe;

/** {@code --device}. */
public enum DeviceChoice {
  AUTO,
  CPU,
  CUDA
}
