/* The softmax over a vocabulary in training: from scores to what the way back needs, while a row lies in the cache. */
#include "common.h"

#define LANES 16

static inline float widened(uint16_t x) {
  union { uint32_t i; float f; } u = {(uint32_t)x << 16};
  return u.f;
}

/* The nearest of bfloat16, the even one of two; NaN stays NaN. */
static inline uint16_t narrowed(float x) {
  union { float f; uint32_t i; } u = {x};
  uint32_t half = 0x7fffu + ((u.i >> 16) & 1u);
  return x != x ? 0x7fc0u : (uint16_t)((u.i + half) >> 16);
}

static float highest(const float *y, size_t n) {
  float top[LANES];
  size_t j = 0;
  for (int l = 0; l < LANES; l++) top[l] = y[0];
  for (; j + LANES <= n; j += LANES)
    for (int l = 0; l < LANES; l++) top[l] = y[j + l] > top[l] ? y[j + l] : top[l];
  for (; j < n; j++) top[0] = y[j] > top[0] ? y[j] : top[0];
  for (int l = 1; l < LANES; l++) top[0] = top[l] > top[0] ? top[l] : top[0];
  return top[0];
}

/* 0 below exp(-87), for numbers smaller still are slow; NaN stays NaN. */
static inline float part(float x) { return x < -87.0f ? 0.0f : exponential(x); }

/* y = exp(y - top); the sum of all */
static float exponentials(float *y, size_t n, float top) {
  float sum[LANES] = {0};
  size_t j = 0;
  for (; j + LANES <= n; j += LANES)
    for (int l = 0; l < LANES; l++) {
      float e = part(y[j + l] - top);
      sum[l] += e;
      y[j + l] = e;
    }
  for (; j < n; j++) sum[0] += y[j] = part(y[j] - top);
  for (int l = 1; l < LANES; l++) sum[0] += sum[l];
  return sum[0];
}

/* Rows of scores (rows, columns), float or, where `rounded`, bfloat16; bias (columns) unless NULL is added to each.
 * nll = -log softmax at the target, in 0 .. columns - 1. Where `keep`, probabilities less one at the target take the
 * place of the scores. scratch: a row of `columns` for each thread. */
EXPORT void sparsernn_softmax(void *scores, const float *bias, const int64_t *target, float *nll, float *scratch,
                              int64_t rows, int64_t columns, int rounded, int keep, int threads) {
  size_t n = (size_t)columns;
  TOGETHER(threads, {
    size_t first = (size_t)rows * me / all, last = (size_t)rows * (me + 1) / all;
    for (size_t r = first; r < last; r++) {
      float *wide = (float *)scores + r * n, *y = rounded || !keep ? scratch + me * n : wide;
      uint16_t *narrow = (uint16_t *)scores + r * n;
      if (rounded)
        for (size_t j = 0; j < n; j++) y[j] = widened(narrow[j]);
      else if (!keep)
        memcpy(y, wide, n * sizeof(float));
      if (bias)
        for (size_t j = 0; j < n; j++) y[j] += bias[j];
      size_t hit = (size_t)target[r];
      float top = highest(y, n), own = y[hit], sum = exponentials(y, n, top);
      nll[r] = (top - own) + logf(sum);
      if (!keep) continue;
      float share = 1.0f / sum;
      for (size_t j = 0; j < n; j++) y[j] *= share;
      y[hit] -= 1.0f;
      if (rounded)
        for (size_t j = 0; j < n; j++) narrow[j] = narrowed(y[j]);
    }
  })
}
