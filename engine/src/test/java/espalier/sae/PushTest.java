package espalier.sae;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;

import espalier.autograd.Tape;
import espalier.autograd.Var;
import espalier.device.Device;
import espalier.device.DeviceChoice;
import espalier.device.ElementType;
import espalier.device.Transfer;
import espalier.tensor.Tensor;
import java.lang.foreign.MemorySegment;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class PushTest {

  private final DeviceChoice chosen = DeviceChoice.current();

  @AfterEach
  void restore() {
    DeviceChoice.choose(chosen);
  }

  /** In numbers that both types have. */
  @ParameterizedTest
  @CsvSource({"F32, 5", "BF16, 5", "F32, 40", "BF16, 40"})
  void addsTheDirectionWhereNothingIsKept(ElementType type, int tokens) {
    int d = 3;
    DeviceChoice.choose(new DeviceChoice(chosen.kind(), chosen.ordinal(), type, ""));
    try (Device device = Device.open()) {
      float[] x = new float[tokens * d];
      float[] direction = {1, -2, 0.5f};
      byte[] kept = new byte[tokens];
      float[] expected = new float[x.length];
      for (int t = 0; t < tokens; t++) {
        kept[t] = (byte) (t % 3 == 1 ? 1 : 0);
        for (int c = 0; c < d; c++) {
          x[t * d + c] = t % 7 - c;
          expected[t * d + c] = x[t * d + c] + (kept[t] == 0 ? 4 * direction[c] : 0);
        }
      }
      MemorySegment keep = device.allocate(tokens);
      Transfer.write(keep, kept);
      Tape tape = new Tape(device);
      Push push = new Push(onDevice(device, type, 1, direction), 4);
      Var in = tape.constant(onDevice(device, type, tokens, x));
      Var pushed = tape.output(push.record(tape, in, keep));
      tape.bind(device).forward();
      assertArrayEquals(expected, pushed.value().toArray());
    }
  }

  private static Tensor onDevice(Device device, ElementType type, int rows, float... values) {
    Tensor exact = Tensor.allocate(device, rows, values.length / rows);
    exact.copyFrom(values);
    Tensor rounded = Tensor.allocate(device, rows, values.length / rows, type);
    device
        .kernels()
        .convert(exact.data(), ElementType.F32.code(), rounded.data(), values.length, type);
    return rounded;
  }
}
