/* CUDA's short vectors, aligned as CUDA aligns them. */
#ifndef ESPALIER_EMULATOR_VECTOR_TYPES_H
#define ESPALIER_EMULATOR_VECTOR_TYPES_H

#define ESP_EMULATED_VECTOR(type, name)                              \
  struct alignas(2 * sizeof(type)) name##2 {                         \
    type x, y;                                                       \
  };                                                                 \
  struct alignas(sizeof(type) < 8 ? 4 * sizeof(type) : 16) name##4 { \
    type x, y, z, w;                                                 \
  };                                                                 \
  inline name##2 make_##name##2(type x, type y) { return {x, y}; }   \
  inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }

ESP_EMULATED_VECTOR(float, float)
ESP_EMULATED_VECTOR(int, int)
ESP_EMULATED_VECTOR(unsigned, uint)
ESP_EMULATED_VECTOR(unsigned char, uchar)
ESP_EMULATED_VECTOR(unsigned short, ushort)

#undef ESP_EMULATED_VECTOR

#endif
