/* A whole window of an Elman layer in one call: h' = phi(u_t + V h), and back.
 *
 * Sequences do not meet, so each thread takes its rows from the first step to the last and waits for nobody. V stands
 * in panels (ceil(H / 16), H, 16), filled up with zeros: what 16 neighbouring outputs need of V lies together. */
#include "panels.h"

enum { NONE = 0, TANH = 1, RELU = 2, MODRELU = 3 };

typedef struct {
  const float *panels, *bias;
  int32_t kind, steps, batch, width;
} Window;

/* The rows first <= r < last of out = base (or 0) + a V'; all three start at row 0. */
static void product(const Window *v, const float *a, const float *base, float *out, size_t first, size_t last) {
  size_t width = (size_t)v->width, at = first * width;
  Rows rows = {a + at, base ? base + at : NULL, out + at, last - first, width, width, width};
  through_panels(&rows, v->panels, width, 0, width);
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
