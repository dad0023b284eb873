/* base + a W^T for a few rows of a, with W (outputs, inner) as it lies in memory: outputs are dot products, and four rows
 * of W stay in the first-level cache while all rows of a pass. Each output is summed in the same order whatever range it
 * is asked for in. */
#ifndef SPARSERNN_DOTS_H
#define SPARSERNN_DOTS_H
#include "shuffles.h"

/* W (outputs, inner) is dense, inner 16 or more; rows of a, base and out may lie apart. base_stride is 0 where all rows
 * share a bias; without a base the sums start from 0. */
typedef struct {
  const float *weight, *a, *base;
  float *out;
  size_t rows, outputs, inner, a_stride, base_stride, out_stride;
} Product;

static inline size_t least(size_t a, size_t b) { return a < b ? a : b; }

#define GROUP 4 /* rows of W at once */
#if WIDTH == 16
#define MOST 6 /* rows of a at once: 24 sums, 4 parts of W and one of a in 32 registers */
#else
#define MOST 3 /* 12 sums in 16 */
#endif
#define DEPTH 1024 /* of the inner axis at once: 4 + 3 rows take 28 KiB */

typedef int32_t vi __attribute__((vector_size(4 * WIDTH)));

/* The sums over the lanes of four vectors. */
static inline v4 sum_four(const vw *s) {
  v4 t[GROUP];
  UNROLLED for (int i = 0; i < GROUP; i++) {
    union { vw all; v4 part[WIDTH / 4]; } u = {s[i]};
    t[i] = u.part[0];
    for (int p = 1; p < WIDTH / 4; p++) t[i] += u.part[p];
  }
  v4 ab = MIX(t[0], t[1], 0, 4, 1, 5) + MIX(t[0], t[1], 2, 6, 3, 7);
  v4 cd = MIX(t[2], t[3], 0, 4, 1, 5) + MIX(t[2], t[3], 2, 6, 3, 7);
  return MIX(ab, cd, 0, 1, 4, 5) + MIX(ab, cd, 2, 3, 6, 7);
}

/* result[r] = the products of row r of a with four rows of W, over n entries; `ahead` is a row of W to fetch. A tail
 * reads the last WIDTH entries, of which `fresh` leaves those that are not counted yet. `rows` is a constant after
 * inlining. */
static inline __attribute__((always_inline)) void dots(const int rows, const float *a, size_t stride,
                                                       const float *const w[GROUP], size_t n, const float *ahead,
                                                       v4 *result) {
  vw sum[MOST][GROUP];
  memset(sum, 0, sizeof sum);
  size_t k = 0;
  for (; k + WIDTH <= n; k += WIDTH) {
    vw part[GROUP];
    UNROLLED for (int g = 0; g < GROUP; g++) part[g] = *(const vw *)(w[g] + k);
    __builtin_prefetch(ahead + k);
    UNROLLED for (int r = 0; r < rows; r++) {
      vw x = *(const vw *)(a + r * stride + k);
      UNROLLED for (int g = 0; g < GROUP; g++) sum[r][g] += part[g] * x;
    }
  }
  if (k < n) {
    vi fresh;
    for (size_t lane = 0; lane < WIDTH; lane++) fresh[lane] = lane >= WIDTH - (n - k) ? -1 : 0;
    vw part[GROUP];
    UNROLLED for (int g = 0; g < GROUP; g++) part[g] = (vw)((vi) * (const vw *)(w[g] + n - WIDTH) & fresh);
    UNROLLED for (int r = 0; r < rows; r++) {
      vw x = (vw)((vi) * (const vw *)(a + r * stride + n - WIDTH) & fresh);
      UNROLLED for (int g = 0; g < GROUP; g++) sum[r][g] += part[g] * x;
    }
  }
  UNROLLED for (int r = 0; r < rows; r++) result[r] = sum_four(sum[r]);
}

static void dots_of(int rows, const float *a, size_t stride, const float *const w[GROUP], size_t n, const float *ahead,
                    v4 *result) {
#define CASE(count) \
  case count: dots(count, a, stride, w, n, ahead, result); break;
  switch (rows) {
    CASE(1) CASE(2) CASE(3)
#if MOST == 6
    CASE(4) CASE(5) CASE(6)
#endif
  }
#undef CASE
}

/* Outputs g to g + 3 (`valid` of them are meant) of all rows, over n entries from k. */
static void group(const Product *p, size_t g, size_t valid, size_t k, size_t n) {
  const float *w[GROUP], *ahead[GROUP];
  for (size_t i = 0; i < GROUP; i++) {
    w[i] = p->weight + least(g + i, p->outputs - 1) * p->inner + k;
    ahead[i] = p->weight + least(g + GROUP + i, p->outputs - 1) * p->inner + k;
  }
  const float *base = k ? p->out : p->base;
  size_t stride = k ? p->out_stride : p->base_stride, blocks = (p->rows + MOST - 1) / MOST;
  for (size_t b = 0; b < blocks; b++) {
    size_t from = p->rows * b / blocks, to = p->rows * (b + 1) / blocks;
    v4 sums[MOST];
    dots_of((int)(to - from), p->a + from * p->a_stride + k, p->a_stride, w, n, ahead[b % GROUP], sums);
    for (size_t r = from; r < to; r++) {
      v4 sum = sums[r - from];
      float *after = p->out + r * p->out_stride + g;
      const float *before = base ? base + r * stride + g : NULL;
      if (valid < GROUP)
        for (size_t i = 0; i < valid; i++) after[i] = (before ? before[i] : 0) + sum[i];
      else if (before)
        *(v4 *)after = *(const v4 *)before + sum;
      else
        *(v4 *)after = sum;
    }
  }
}

/* Outputs first <= g < last. */
static inline void along(const Product *p, size_t first, size_t last) {
  size_t parts = (p->inner + DEPTH - 1) / DEPTH, depth = ((p->inner + parts - 1) / parts + 15) / 16 * 16;
  for (size_t g = first; g < last; g += GROUP)
    for (size_t k = 0; k < p->inner; k += depth) group(p, g, least(GROUP, last - g), k, least(depth, p->inner - k));
}
#endif
