/* The product of a recurrent step for a few rows, and a transposed copy of its weight. Threads share out the outputs. */
#include "dots.h"

/* out (rows, outputs) = base + a W^T; a (rows, inner). base: the same shape, out itself allowed, or if `shared` one
 * row. */
EXPORT void sparsernn_product(const float *weight, const float *a, const float *base, float *out, int rows, int outputs,
                              int inner, int shared, int threads) {
  size_t n = (size_t)outputs, depth = (size_t)inner;
  Product p = {weight, a, base, out, (size_t)rows, n, depth, depth, shared ? 0 : n, n};
  size_t groups = (p.outputs + GROUP - 1) / GROUP;
  TOGETHER(threads, along(&p, groups * me / all * GROUP, least(groups * (me + 1) / all * GROUP, p.outputs));)
}

/* ---- A transposed copy ---- */

#define STRIP 16 /* neighbouring columns of `in`: one line of the cache */

/* The columns first <= c < last of `in`. */
static void transpose(const float *in, float *out, size_t rows, size_t columns, size_t first, size_t last) {
  for (size_t c = first; c < last; c += STRIP)
    for (size_t r = 0; r < rows; r += 4)
      for (size_t i = c; i < least(c + STRIP, last); i += 4)
        if (r + 4 <= rows && i + 4 <= last)
          square(in + r * columns + i, columns, out + i * rows + r, rows);
        else
          for (size_t k = i; k < least(i + 4, last); k++)
            for (size_t j = r; j < least(r + 4, rows); j++) out[k * rows + j] = in[j * columns + k];
}

/* out (columns, rows) from in (rows, columns). */
EXPORT void sparsernn_transpose(const float *in, float *out, int rows, int columns, int threads) {
  size_t n = (size_t)columns, strips = (n + STRIP - 1) / STRIP;
  TOGETHER(threads, {
    size_t first = strips * me / all * STRIP, last = least(strips * (me + 1) / all * STRIP, n);
    transpose(in, out, (size_t)rows, n, first, last);
  })
}
