/* Passes over weights in training: several elementwise steps in one reading of the memory. And what the loader asks. */
#include "common.h"

#if defined(__FMA__) || defined(__aarch64__)
#define FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

#ifdef _OPENMP
#define PARALLEL_FOR _Pragma("omp parallel for simd schedule(static) num_threads(threads) if (threads > 1)")
#else
#define PARALLEL_FOR (void)threads;
#endif

/* w = (w - lr * (scale * g + decay * w)) where mask, else 0 */
EXPORT void sparsernn_masked_sgd(float *restrict w, const float *restrict g, const uint8_t *restrict mask, float lr,
                                 float decay, float scale, int64_t n, int threads) {
  PARALLEL_FOR
  for (int64_t i = 0; i < n; i++) {
    float moved = FMA(-lr, FMA(decay, w[i], scale * g[i]), w[i]);
    w[i] = mask[i] ? moved : 0.0f;
  }
}

/* the same, and sum += w */
EXPORT void sparsernn_masked_sgd_sum(float *restrict w, const float *restrict g, const uint8_t *restrict mask,
                                     float *restrict sum, float lr, float decay, float scale, int64_t n, int threads) {
  PARALLEL_FOR
  for (int64_t i = 0; i < n; i++) {
    float moved = FMA(-lr, FMA(decay, w[i], scale * g[i]), w[i]);
    moved = mask[i] ? moved : 0.0f;
    w[i] = moved;
    sum[i] += moved;
  }
}

/* without a mask */
EXPORT void sparsernn_sgd(float *restrict w, const float *restrict g, float lr, float decay, float scale, int64_t n,
                          int threads) {
  PARALLEL_FOR
  for (int64_t i = 0; i < n; i++) w[i] = FMA(-lr, FMA(decay, w[i], scale * g[i]), w[i]);
}

EXPORT void sparsernn_sgd_sum(float *restrict w, const float *restrict g, float *restrict sum, float lr, float decay,
                              float scale, int64_t n, int threads) {
  PARALLEL_FOR
  for (int64_t i = 0; i < n; i++) {
    float moved = FMA(-lr, FMA(decay, w[i], scale * g[i]), w[i]);
    w[i] = moved;
    sum[i] += moved;
  }
}

EXPORT void sparsernn_mask(float *restrict w, const uint8_t *restrict mask, int64_t n, int threads) {
  PARALLEL_FOR
  for (int64_t i = 0; i < n; i++) w[i] = mask[i] ? w[i] : 0.0f;
}

EXPORT int sparsernn_has_openmp(void) {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

/* Changes whenever a signature or structure changes, so that a library of an older build is not called wrongly. */
EXPORT int sparsernn_interface(void) { return 3; }
