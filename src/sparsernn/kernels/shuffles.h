/* Moves between vectors of four, and the mark for loops that are unrolled. */
#ifndef SPARSERNN_SHUFFLES_H
#define SPARSERNN_SHUFFLES_H
#include "common.h"

#define UNROLLED _Pragma("GCC unroll 12")

#if defined(__clang__)
#define MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t i4 __attribute__((vector_size(16)));
#define MIX(a, b, ...) __builtin_shuffle(a, b, (i4){__VA_ARGS__})
#endif

/* Four rows of four. */
static inline void square(const float *in, size_t columns, float *out, size_t rows) {
  v4 a = *(const v4 *)in, b = *(const v4 *)(in + columns);
  v4 c = *(const v4 *)(in + 2 * columns), d = *(const v4 *)(in + 3 * columns);
  v4 ab = MIX(a, b, 0, 4, 1, 5), cd = MIX(c, d, 0, 4, 1, 5);
  *(v4 *)out = MIX(ab, cd, 0, 1, 4, 5);
  *(v4 *)(out + rows) = MIX(ab, cd, 2, 3, 6, 7);
  ab = MIX(a, b, 2, 6, 3, 7), cd = MIX(c, d, 2, 6, 3, 7);
  *(v4 *)(out + 2 * rows) = MIX(ab, cd, 0, 1, 4, 5);
  *(v4 *)(out + 3 * rows) = MIX(ab, cd, 2, 3, 6, 7);
}
#endif
