package espalier.device;

import espalier.bindings.kernels.esp_control;
import java.lang.foreign.MemorySegment;

/** What changes from step to step, in device memory, where kernels read it: see esp_control. */
public final class Control {

  private final MemorySegment data;

  public Control(Device device) {
    data = device.allocate(esp_control.sizeof());
    data.fill((byte) 0);
  }

  public MemorySegment data() {
    return data;
  }

  /** Seed of the current step's dropout, as kernels take it. */
  public MemorySegment seedData() {
    return data.asSlice(esp_control.seed$offset(), Long.BYTES);
  }

  public void learningRate(double value) {
    esp_control.lr(data, value);
  }

  /** Counted from 1. */
  public void step(long value) {
    esp_control.step(data, value);
  }

  public void seed(long value) {
    esp_control.seed(data, value);
  }

  /** As the last norm kernel left it. */
  public double gradientNorm() {
    return esp_control.grad_norm(data);
  }
}
