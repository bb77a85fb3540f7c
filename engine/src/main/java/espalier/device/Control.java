package espalier.device;

import espalier.bindings.kernels.esp_control;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;

/**
 * What changes from step to step, in device memory, where kernels read it: see esp_control. Setters
 * write the host's copy.
 */
public final class Control {

  private final Arena arena = Arena.ofAuto();
  private final MemorySegment host = arena.allocate(esp_control.layout());
  private final MemorySegment data;

  public Control(Device device) {
    data = device.allocate(esp_control.sizeof());
    upload();
  }

  public MemorySegment data() {
    return data;
  }

  /** Seed of the current step's dropout, as kernels take it. */
  public MemorySegment seedData() {
    return data.asSlice(esp_control.seed$offset(), Long.BYTES);
  }

  public void learningRate(double value) {
    esp_control.lr(host, value);
    upload();
  }

  /** Counted from 1. */
  public void step(long value) {
    esp_control.step(host, value);
    upload();
  }

  public void seed(long value) {
    esp_control.seed(host, value);
    upload();
  }

  /** As the last norm kernel left it. */
  public double gradientNorm() {
    Transfer.copy(data, host);
    return esp_control.grad_norm(host);
  }

  private void upload() {
    Transfer.copy(host, data);
  }
}
