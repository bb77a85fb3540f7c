package espalier.device;

import espalier.bindings.kernels.esp_place;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;

/** Where matrices of flat values have their copies, as {@link Kernels#placeMatrices} reads it. */
public final class Places {

  /**
   * A matrix {@code [rows, cols]} that begins at element {@code from}; its copy's rows are {@code
   * ld} elements apart.
   */
  public record Place(long from, MemorySegment to, long rows, long cols, long ld) {}

  private final MemorySegment structs;
  private final int count;
  private final long end;

  /**
   * @param type of the copies
   */
  public Places(Device device, ElementType type, List<Place> places) {
    count = places.size();
    structs = device.allocate(Math.max(1, count) * esp_place.sizeof());
    long last = 0;
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment host = esp_place.allocateArray(Math.max(1, count), arena);
      for (int i = 0; i < count; i++) {
        Place place = places.get(i);
        Arguments.matrix(
            "esp_place_matrices", "to", place.to, place.rows, place.cols, place.ld, type.bytes());
        MemorySegment struct = esp_place.asSlice(host, i);
        esp_place.from(struct, place.from);
        esp_place.to(struct, place.to);
        esp_place.rows(struct, place.rows);
        esp_place.cols(struct, place.cols);
        esp_place.ld(struct, place.ld);
        last = Math.max(last, place.from + place.rows * place.cols);
      }
      Transfer.write(structs, host);
    }
    end = last;
  }

  int count() {
    return count;
  }

  /** How many values are read at least. */
  long end() {
    return end;
  }

  MemorySegment structs() {
    return structs;
  }
}
