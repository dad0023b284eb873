/* A whole window of an Elman layer in one call: h' = phi(u_t + V h), and back.
 *
 * Sequences do not meet, so each thread takes its rows from the first step to the last and waits for nobody. V stands
 * in panels (ceil(H / 16), H, 16), filled up with zeros: what 16 neighbouring outputs need of V lies together. */
#include "common.h"

#define TILE 16
#define PARTS (TILE / WIDTH)
/* Rows at once: 12 sums fill the registers (24 for AVX-512, whose 16 columns are one register: 12 rows). */
#define ROWS (12 / PARTS)
#define UNROLLED _Pragma("GCC unroll 12")

enum { NONE = 0, TANH = 1, RELU = 2, MODRELU = 3 };

typedef struct {
  const float *panels, *bias;
  int32_t kind, steps, batch, width;
} Window;

/* out = base (or 0) + a V' for `rows` rows and `valid` columns of one panel; `rows` is a constant after inlining. */
static inline __attribute__((always_inline)) void tile(const int rows, const float *a, const float *panel,
                                                       const float *base, float *out, size_t width, int valid) {
  vw sum[ROWS][PARTS];
  memset(sum, 0, sizeof sum);
  for (size_t k = 0; k < width; k++) {
    vw w[PARTS];
    UNROLLED for (int p = 0; p < PARTS; p++) w[p] = *(const vw *)(panel + k * TILE + p * WIDTH);
    UNROLLED for (int r = 0; r < rows; r++)
      UNROLLED for (int p = 0; p < PARTS; p++) sum[r][p] += w[p] * a[r * width + k];
  }
  for (int r = 0; r < rows; r++) {
    float line[TILE] = {0};
    if (base) memcpy(line, base + r * width, (size_t)valid * sizeof(float));
    for (int p = 0; p < PARTS; p++) *(vw *)(line + p * WIDTH) += sum[r][p];
    memcpy(out + r * width, line, (size_t)valid * sizeof(float));
  }
}

static void block(int rows, const float *a, const float *panel, const float *base, float *out, size_t width, int valid) {
#define CASE(n) \
  case n: tile(n, a, panel, base, out, width, valid); break;
  switch (rows) {
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

/* The rows first <= r < last of out = base (or 0) + a V'; all three start at row 0. */
static void product(const Window *v, const float *a, const float *base, float *out, size_t first, size_t last) {
  size_t width = (size_t)v->width, rows = last - first, blocks = (rows + ROWS - 1) / ROWS;
  for (size_t column = 0; column < width; column += TILE) {
    int valid = width - column < TILE ? (int)(width - column) : TILE;
    for (size_t b = 0; b < blocks; b++) {
      size_t from = first + rows * b / blocks, to = first + rows * (b + 1) / blocks, at = from * width + column;
      block((int)(to - from), a + from * width, v->panels + column * width, base ? base + at : NULL, out + at, width,
            valid);
    }
  }
}

/* phi, in place, of `rows` rows. sign(0) = 0 in modReLU; NaN stays NaN. */
static void activate(const Window *v, float *restrict y, size_t rows) {
  size_t n = (size_t)v->width, all = rows * n;
  if (v->kind == TANH)
    for (size_t j = 0; j < all; j++) y[j] = hyperbolic(y[j]);
  else if (v->kind == RELU)
    for (size_t j = 0; j < all; j++) y[j] = y[j] < 0 ? 0 : y[j];
  else if (v->kind == MODRELU)
    for (size_t r = 0; r < rows; r++, y += n)
      for (size_t j = 0; j < n; j++) {
        float size = fabsf(y[j]) + v->bias[j];
        size = size < 0 ? 0 : size;
        y[j] = y[j] == 0 ? 0 : copysignf(size, y[j]);
      }
}

/* d_pre = (d + carry) phi'. A modReLU unit is on where |z| + b > 0: always for b > 0 (its output is 0 where z is),
 * otherwise exactly where its output is not 0. */
static void derive(const Window *v, const float *restrict d, const float *restrict carry, const float *restrict y,
                   float *restrict d_pre, size_t rows) {
  size_t n = (size_t)v->width, all = rows * n;
  if (v->kind == NONE)
    for (size_t j = 0; j < all; j++) d_pre[j] = d[j] + carry[j];
  else if (v->kind == TANH)
    for (size_t j = 0; j < all; j++) d_pre[j] = (d[j] + carry[j]) * (1.0f - y[j] * y[j]);
  else if (v->kind == RELU)
    for (size_t j = 0; j < all; j++) d_pre[j] = y[j] <= 0 ? 0 : d[j] + carry[j];
  else
    for (size_t r = 0; r < rows; r++)
      for (size_t j = r * n; j < r * n + n; j++)
        d_pre[j] = (v->bias[j - r * n] > 0) | (y[j] != 0) ? d[j] + carry[j] : 0;
}

/* y (T, B, H) from u (T, B, H) and the state before, start (B, H). */
static void forward(const Window *v, const float *u, const float *start, float *y, size_t first, size_t last) {
  size_t n = (size_t)v->width, step = n * (size_t)v->batch;
  for (int t = 0; t < v->steps && first < last; t++, u += step, y += step) {
    product(v, start, u, y, first, last);
    activate(v, y + first * n, last - first);
    start = y;
  }
}

/* d_pre (T, B, H) from d_y (T, B, H); carry (B, H) comes in as the gradient of the last state, goes out as that of the
 * state before the first step. */
static void backward(const Window *v, const float *d_y, const float *y, float *carry, float *d_pre, size_t first,
                     size_t last) {
  size_t n = (size_t)v->width, step = n * (size_t)v->batch, mine = first * n;
  for (int t = v->steps - 1; t >= 0 && first < last; t--) {
    size_t at = (size_t)t * step;
    derive(v, d_y + at + mine, carry + mine, y + at + mine, d_pre + at + mine, last - first);
    product(v, d_pre + at, NULL, carry, first, last);
  }
}

EXPORT void sparsernn_window_forward(const Window *v, const float *u, const float *start, float *y, int threads) {
  size_t n = (size_t)v->batch;
  TOGETHER(threads, forward(v, u, start, y, n * me / all, n * (me + 1) / all);)
}

EXPORT void sparsernn_window_backward(const Window *v, const float *d_y, const float *y, float *carry, float *d_pre,
                                      int threads) {
  size_t n = (size_t)v->batch;
  TOGETHER(threads, backward(v, d_y, y, carry, d_pre, n * me / all, n * (me + 1) / all);)
}
