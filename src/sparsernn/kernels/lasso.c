/* Passes over the weights for penalties on norms and magnitudes. Matrices are float, row-major and dense; every number
 * is read once (and a gradient written once), for at these sizes nothing but memory is slow. */
#include "common.h"

#define MY_SHARE(n) size_t first = (size_t)(n) * me / all, last = (size_t)(n) * (me + 1) / all

/* Sums of squares of the rows and columns of w (rows, columns). by_column has a row of `columns` zeros per thread. */
EXPORT void sparsernn_squares(const float *w, float *by_row, float *by_column, int rows, int columns, int threads) {
  size_t n = (size_t)columns;
  TOGETHER(threads, {
    MY_SHARE(rows);
    float *restrict sums = by_column + me * n;
    for (size_t r = first; r < last; r++) {
      const float *x = w + r * n;
      vw total = {0};
      size_t j = 0;
      for (; j + WIDTH <= n; j += WIDTH) {
        vw square = *(const vw *)(x + j) * *(const vw *)(x + j);
        *(vw *)(sums + j) += square;
        total += square;
      }
      float rest = 0;
      for (; j < n; j++) {
        sums[j] += x[j] * x[j];
        rest += x[j] * x[j];
      }
      by_row[r] = sum_vector(total) + rest;
    }
  })
}

/* g += (by_row[r] + by_column[j]) w */
EXPORT void sparsernn_add_scaled(const float *w, float *g, const float *by_row, const float *by_column, int rows,
                                 int columns, int threads) {
  size_t n = (size_t)columns;
  TOGETHER(threads, {
    MY_SHARE(rows);
    for (size_t r = first; r < last; r++) {
      const float *restrict x = w + r * n;
      float *restrict y = g + r * n, own = by_row[r];
      for (size_t j = 0; j < n; j++) y[j] += (own + by_column[j]) * x[j];
    }
  })
}

/* g += strength * sign(w) for n numbers */
EXPORT void sparsernn_add_signs(const float *w, float *g, float strength, int64_t n, int threads) {
  TOGETHER(threads, {
    MY_SHARE(n);
    const float *restrict x = w;
    float *restrict y = g;
    for (size_t i = first; i < last; i++) y[i] += x[i] > 0 ? strength : x[i] < 0 ? -strength : 0.0f;
  })
}

/* w = 0 where |w| < least; nothing is written where nothing falls. */
EXPORT void sparsernn_threshold(float *w, float least, int64_t n, int threads) {
  TOGETHER(threads, {
    MY_SHARE(n);
    for (size_t from = first; from < last; from += 256) {
      size_t to = from + 256 < last ? from + 256 : last;
      int small = 0;
      for (size_t i = from; i < to; i++) small |= (fabsf(w[i]) < least) & (w[i] != 0);
      if (small)
        for (size_t i = from; i < to; i++) w[i] = fabsf(w[i]) < least ? 0.0f : w[i];
    }
  })
}
