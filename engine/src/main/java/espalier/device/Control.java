package espalier.device;

import espalier.bindings.kernels.esp_control;
import java.lang.foreign.MemorySegment;

/**
 * The values that change from step to step, in device memory where kernels read and write them: see
 * esp_control. Setters and getters work on a copy in the host's memory; {@link #upload} and {@link
 * #download} copy it to and from the device.
 */
public final class Control {

  private final Device device;
  private final MemorySegment host;
  private final MemorySegment data;

  Control(Device device) {
    this.device = device;
    host = device.allocateStaging(esp_control.sizeof());
    data = device.allocate(esp_control.sizeof());
    Transfer.copy(host, data);
  }

  public MemorySegment data() {
    return data;
  }

  /** uint64: seed of the current batch's dropout, as kernels take it. */
  public MemorySegment seedData() {
    return data.asSlice(esp_control.seed$offset(), Long.BYTES);
  }

  /** float64: where the losses of a step are added up. */
  public MemorySegment lossData() {
    return data.asSlice(esp_control.loss$offset(), Double.BYTES);
  }

  /** int32: see esp_sae_encode. */
  public MemorySegment overflowData() {
    return data.asSlice(esp_control.overflow$offset(), Integer.BYTES);
  }

  public void learningRate(double value) {
    esp_control.lr(host, value);
  }

  /** Sets the number of the step, counted from 1. */
  public void step(long value) {
    esp_control.step(host, value);
  }

  /** Clears the results of the last step; to be called before {@link #upload}. */
  public void clearResults() {
    esp_control.loss(host, 0);
    esp_control.grad_norm(host, 0);
    esp_control.overflow(host, 0);
  }

  /** Queues a copy of all of it to the device. */
  public void upload() {
    device.upload(host, data);
  }

  /** Queues a copy of all of it to the host, there once {@link Device#synchronize} returns. */
  public void download() {
    device.download(data, host);
  }

  /** The loss of the step's batches together. */
  public double loss() {
    return esp_control.loss(host);
  }

  /** The norm of all gradients together, before clipping. */
  public double gradientNorm() {
    return esp_control.grad_norm(host);
  }

  /** Entries that the longest list of latents needed, if it had too little room; else 0. */
  public int overflow() {
    return esp_control.overflow(host);
  }
}
