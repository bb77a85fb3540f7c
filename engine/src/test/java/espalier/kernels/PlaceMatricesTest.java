package espalier.kernels;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import espalier.device.ElementType;
import espalier.device.Places;
import java.lang.foreign.MemorySegment;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class PlaceMatricesTest extends KernelTest {

  /**
   * Two matrices of one place, side by side, and a third below: each lands where it belongs,
   * rounded once, and nothing else is touched.
   */
  @ParameterizedTest
  @CsvSource({"F32, true", "F32, false", "BF16, true", "BF16, false"})
  void everyMatrixGoesToItsPlace(ElementType type, boolean aligned) {
    kernels(type); // skips where there are none
    buffers.alignTo16(aligned);
    int unit = aligned ? 8 : 5;
    int rows = 9;
    int ld = 4 * unit;
    float[] values = random(2 + 2 * rows * unit + 3 * 2 * unit);
    MemorySegment flat = buffers.input(values);
    MemorySegment target = buffers.output(type, (rows + 3) * ld);
    long size = type.bytes();
    int second = aligned ? rows * unit : 1 + rows * unit;
    int third = second + rows * unit;
    kernels(type)
        .placeMatrices(
            flat,
            new Places(
                device,
                type,
                List.of(
                    new Places.Place(0, target, rows, unit, ld),
                    new Places.Place(second, target.asSlice(2 * unit * size), rows, unit, ld),
                    new Places.Place(
                        third, target.asSlice((long) rows * ld * size), 3, 2L * unit, ld))));
    float[] placed = TestBuffers.toFloats(type, target);
    for (int r = 0; r < rows + 3; r++) {
      for (int c = 0; c < ld; c++) {
        int from =
            r >= rows
                ? c < 2 * unit ? third + (r - rows) * 2 * unit + c : -1
                : c < unit
                    ? r * unit + c
                    : c >= 2 * unit && c < 3 * unit ? second + r * unit + c - 2 * unit : -1;
        float expected =
            from < 0
                ? Float.NaN
                : type == ElementType.F32 ? values[from] : (float) Bfloat16.round(values[from]);
        assertEquals(expected, placed[r * ld + c], "row " + r + ", column " + c);
      }
    }
  }

  @Test
  void refusesPlacesThatAreTooSmall() {
    MemorySegment target = buffers.floats(15);
    assertThrows(
        IllegalArgumentException.class,
        () -> new Places(device, ElementType.F32, List.of(new Places.Place(0, target, 2, 8, 8))));
    Places fits =
        new Places(device, ElementType.F32, List.of(new Places.Place(1, target, 2, 7, 8)));
    MemorySegment few = buffers.input(random(14));
    assertThrows(IllegalArgumentException.class, () -> kernels.placeMatrices(few, fits));
  }
}
