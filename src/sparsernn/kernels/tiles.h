/* What products of sparse weights share: the weights, and rows of a matrix turned so that a column's numbers for
 * several rows lie together. */
#ifndef SPARSERNN_TILES_H
#define SPARSERNN_TILES_H
#include "shuffles.h"

/* Weights S (rows, columns) at their places; fewer than 65536 columns. sparse_layout.py fills it through ctypes.
 * index ends with 8 numbers more, of any column: what lies ahead is fetched early.
 * Blocks, up to 16 neighbouring rows of a column:
 *   row     first row of each panel, and the end (panels + 1)
 *   start   first block of each panel (panels + 1)
 *   index   column of each block, ascending in a panel
 *   values  16 for each block, 0 beyond the last row of its panel
 * Single weights, in strips of neighbouring columns, in a strip row after row:
 *   start   first weight of each row of each strip (strips rows + 1)
 *   index   column of each weight, ascending in a row */
typedef struct {
  int32_t rows, columns, strips, panels;
  const int32_t *start;
  const uint16_t *index;
  const float *values;
  const int32_t *row;
} Places;

static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t rounded(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* The share of thread `me` of `n` things, in units of 16: whole lines of the cache. */
#define SHARE(n, first, last)                         \
  size_t first = rounded(n, 16) / 16 * me / all * 16; \
  size_t last = smaller(rounded(n, 16) / 16 * (me + 1) / all * 16, n);

/* out[c][i] = in[i][c] for first <= c < last and i < count; zeros from there to `wide`, a multiple of 4. */
static void turn(const float *in, size_t stride, size_t count, size_t first, size_t last, float *out, size_t wide) {
  for (size_t c = first; c < last; c += 4)
    for (size_t i = 0; i < wide; i += 4)
      if (c + 4 <= last && i + 4 <= count)
        square(in + i * stride + c, stride, out + c * wide + i, wide);
      else
        for (size_t d = c; d < smaller(c + 4, last); d++)
          for (size_t j = i; j < i + 4; j++) out[d * wide + j] = j < count ? in[j * stride + d] : 0;
}

/* out[i][c] = base[i][c] + in[c][i] for first <= c < last and i < count; without a base from 0. `in` begins at first. */
static void turn_back(const float *in, size_t wide, size_t count, size_t first, size_t last, const float *base,
                      size_t base_stride, float *out, size_t stride) {
  for (size_t c = first; c < last; c += 4, in += 4 * wide)
    for (size_t i = 0; i < count; i += 4)
      if (c + 4 <= last && i + 4 <= count) {
        float corner[16];
        square(in + i, wide, corner, 4);
        UNROLLED for (size_t j = 0; j < 4; j++) {
          v4 sum = *(v4 *)(corner + 4 * j);
          if (base) sum += *(const v4 *)(base + (i + j) * base_stride + c);
          *(v4 *)(out + (i + j) * stride + c) = sum;
        }
      } else
        for (size_t d = c; d < smaller(c + 4, last); d++)
          for (size_t j = i; j < smaller(i + 4, count); j++)
            out[j * stride + d] = (base ? base[j * base_stride + d] : 0) + in[(d - c) * wide + j];
}
#endif
