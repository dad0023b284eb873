/* base + a V' for weights V rearranged in panels (ceil(outputs / 16), inner, 16), filled up with zeros: what 16
 * neighbouring outputs need of V lies together. Each output is summed in the order of the inner axis. */
#ifndef SPARSERNN_PANELS_H
#define SPARSERNN_PANELS_H
#include "shuffles.h"

#define TILE 16
#define PARTS (TILE / WIDTH)
/* Rows at once: 12 sums fill the registers (24 for AVX-512, whose 16 columns are one register: 12 rows). */
#define ROWS (12 / PARTS)

/* Rows of a, base and out, and how far each is from the next; without a base the sums start from 0. */
typedef struct {
  const float *a, *base;
  float *out;
  size_t rows, a_stride, base_stride, out_stride;
} Rows;

/* `rows` rows and `valid` columns of one panel, whose first column is that of base and out; `rows` is a constant after
 * inlining. */
static inline __attribute__((always_inline)) void tile(const int rows, const Rows *p, const float *panel, size_t inner,
                                                       int valid) {
  vw sum[ROWS][PARTS];
  memset(sum, 0, sizeof sum);
  const float *a = p->a;
  size_t stride = p->a_stride;
  for (size_t k = 0; k < inner; k++) {
    vw w[PARTS];
    UNROLLED for (int i = 0; i < PARTS; i++) w[i] = *(const vw *)(panel + k * TILE + i * WIDTH);
    __builtin_prefetch(panel + (k + 64) * TILE);
    UNROLLED for (int r = 0; r < rows; r++)
      UNROLLED for (int i = 0; i < PARTS; i++) sum[r][i] += w[i] * a[(size_t)r * stride + k];
  }
  for (int r = 0; r < rows; r++) {
    float line[TILE] = {0}, *out = p->out + (size_t)r * p->out_stride;
    const float *base = p->base ? p->base + (size_t)r * p->base_stride : line;
    if (valid < TILE) {
      if (p->base) memcpy(line, base, (size_t)valid * sizeof(float));
      for (int i = 0; i < PARTS; i++) *(vw *)(line + i * WIDTH) += sum[r][i];
      memcpy(out, line, (size_t)valid * sizeof(float));
    } else
      for (int i = 0; i < PARTS; i++) *(vw *)(out + i * WIDTH) = *(const vw *)(base + i * WIDTH) + sum[r][i];
  }
}

static void tile_of(const Rows *p, const float *panel, size_t inner, int valid) {
#define CASE(n) \
  case n: tile(n, p, panel, inner, valid); break;
  switch (p->rows) {
    CASE(1) CASE(2) CASE(3)
#if ROWS >= 6
    CASE(4) CASE(5) CASE(6)
#endif
#if ROWS >= 12
    CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
  }
#undef CASE
}

/* The outputs first <= j < last, first a multiple of 16, of all rows. */
static void through_panels(const Rows *p, const float *panels, size_t inner, size_t first, size_t last) {
  size_t blocks = (p->rows + ROWS - 1) / ROWS;
  for (size_t j = first; j < last; j += TILE)
    for (size_t b = 0; b < blocks; b++) {
      size_t from = p->rows * b / blocks, to = p->rows * (b + 1) / blocks;
      Rows some = {p->a + from * p->a_stride, p->base ? p->base + from * p->base_stride + j : NULL,
                   p->out + from * p->out_stride + j, to - from, p->a_stride, p->base_stride, p->out_stride};
      tile_of(&some, panels + j * inner, inner, last - j < TILE ? (int)(last - j) : TILE);
    }
}
#endif
