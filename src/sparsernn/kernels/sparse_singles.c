/* Products of single weights, in training: rows of x lie in the lanes of vectors, so that a weight meets several at once.
 * Forward and back are the same product, with the weights and with their transpose. Every sum is taken in one order,
 * whatever the number of threads. */
#include "dots.h"
#include "tiles.h"

#define LANES (WIDTH == 4 ? 16 : 32) /* rows of x at once */

/* out (lanes) += or, if `fresh`, = the sum over the weights k to end of value x[column]; x is (columns, lanes) with
 * `full` vectors and `fours` quarters for each, constants after inlining. Weights take turns in two sums. */
static inline __attribute__((always_inline)) void row_of(const int full, const int fours, const Places *s, size_t k,
                                                         size_t end, const float *x, int fresh, float *out) {
  vw sum[2][LANES / WIDTH];
  v4 rest[2][3];
  const size_t lanes = (size_t)(full * WIDTH + fours * 4);
  memset(sum, 0, sizeof sum);
  memset(rest, 0, sizeof rest);
  if (!fresh) {
    UNROLLED for (int i = 0; i < full; i++) sum[0][i] = *(vw *)(out + i * WIDTH);
    UNROLLED for (int i = 0; i < fours; i++) rest[0][i] = *(v4 *)(out + full * WIDTH + i * 4);
  }
  for (; k + 2 <= end; k += 2)
    UNROLLED for (int j = 0; j < 2; j++) {
      const float w = s->values[k + (size_t)j], *q = x + (size_t)s->index[k + (size_t)j] * lanes;
      UNROLLED for (int i = 0; i < full; i++) sum[j][i] += w * *(const vw *)(q + i * WIDTH);
      UNROLLED for (int i = 0; i < fours; i++) rest[j][i] += w * *(const v4 *)(q + full * WIDTH + i * 4);
    }
  if (k < end) {
    const float w = s->values[k], *q = x + (size_t)s->index[k] * lanes;
    UNROLLED for (int i = 0; i < full; i++) sum[0][i] += w * *(const vw *)(q + i * WIDTH);
    UNROLLED for (int i = 0; i < fours; i++) rest[0][i] += w * *(const v4 *)(q + full * WIDTH + i * 4);
  }
  UNROLLED for (int i = 0; i < full; i++) *(vw *)(out + i * WIDTH) = sum[0][i] + sum[1][i];
  UNROLLED for (int i = 0; i < fours; i++) *(v4 *)(out + full * WIDTH + i * 4) = rest[0][i] + rest[1][i];
}

/* All strips for the rows first <= r < last; out begins with `first`. */
#define ROWS_OF(name, full, fours)                                                                                  \
  static void name(const Places *s, size_t first, size_t last, const float *x, float *out) {                        \
    for (size_t strip = 0; strip < (size_t)s->strips; strip++) {                                                    \
      const int32_t *start = s->start + strip * (size_t)s->rows;                                                    \
      for (size_t r = first; r < last; r++)                                                                         \
        row_of(full, fours, s, (size_t)start[r], (size_t)start[r + 1], x, strip == 0,                               \
               out + (r - first) * (full * WIDTH + fours * 4));                                                     \
    }                                                                                                               \
  }
#if WIDTH == 16
ROWS_OF(rows_4, 0, 1) ROWS_OF(rows_8, 0, 2) ROWS_OF(rows_16, 1, 0) ROWS_OF(rows_20, 1, 1) ROWS_OF(rows_24, 1, 2)
ROWS_OF(rows_32, 2, 0)
#elif WIDTH == 8
ROWS_OF(rows_4, 0, 1) ROWS_OF(rows_8, 1, 0) ROWS_OF(rows_16, 2, 0) ROWS_OF(rows_20, 2, 1) ROWS_OF(rows_24, 3, 0)
ROWS_OF(rows_32, 4, 0)
#else
ROWS_OF(rows_4, 1, 0) ROWS_OF(rows_8, 2, 0) ROWS_OF(rows_16, 4, 0)
#endif

/* Lanes that hold `count` rows. */
static size_t lanes_of(size_t count) {
  static const size_t offered[] = {4, 8, 16, 20, 24};
  for (size_t i = 0; i < 5; i++)
    if (count <= offered[i]) return offered[i];
  return 32;
}

static void rows_of(size_t lanes, const Places *s, size_t first, size_t last, const float *x, float *out) {
  switch (lanes) {
    case 4: rows_4(s, first, last, x, out); break;
    case 8: rows_8(s, first, last, x, out); break;
    case 16: rows_16(s, first, last, x, out); break;
#if WIDTH > 4
    case 20: rows_20(s, first, last, x, out); break;
    case 24: rows_24(s, first, last, x, out); break;
    case 32: rows_32(s, first, last, x, out); break;
#endif
  }
}

/* y (n, rows) = base + x (n, columns) S'. base: the same shape, y itself allowed, one row if `shared`, or NULL.
 * room: (n + 16) * columns + 32 * rows numbers. */
EXPORT void sparsernn_singles_forward(const Places *s, const float *x, const float *base, float *y, float *room, int n,
                                      int shared, int threads) {
  size_t columns = (size_t)s->columns, rows = (size_t)s->rows, count = (size_t)n, stride = shared ? 0 : rows;
  float *sums = room + (count + 16) * columns;
  TOGETHER(threads, {
    SHARE(columns, low, high)
    for (size_t from = 0; from < count; from += LANES) {
      size_t some = smaller(LANES, count - from);
      turn(x + from * columns, columns, some, low, high, room + from * columns, lanes_of(some));
    }
    WAIT
    SHARE(rows, first, last)
    for (size_t from = 0; from < count; from += LANES) {
      size_t some = smaller(LANES, count - from), lanes = lanes_of(some);
      float *mine = sums + first * 32;
      rows_of(lanes, s, first, last, room + from * columns, mine);
      turn_back(mine, lanes, some, first, last, base ? base + from * stride : NULL, stride, y + from * rows, rows);
    }
  })
}

/* ---- Gradient: values[k] = the sum over n of y[n][row] x[n][column] ---- */

#define DEEP 128 /* rows at once */
#define MANY 8   /* weights at once */

/* out[i] += or = d . x[index[i]] for `many` weights. */
static inline __attribute__((always_inline)) void eight(const uint16_t *index, const float *x, const float *d,
                                                        size_t deep, int fresh, float *out) {
  vw sum[MANY];
  const float *q[MANY];
  memset(sum, 0, sizeof sum);
  UNROLLED for (int i = 0; i < MANY; i++) q[i] = x + (size_t)index[i] * deep;
  for (size_t n = 0; n < deep; n += WIDTH) {
    vw part = *(const vw *)(d + n);
    UNROLLED for (int i = 0; i < MANY; i++) sum[i] += part * *(const vw *)(q[i] + n);
  }
  v4 low = sum_four(sum), high = sum_four(sum + 4);
  if (!fresh) low += *(v4 *)out, high += *(v4 *)(out + 4);
  *(v4 *)out = low;
  *(v4 *)(out + 4) = high;
}

static void row_sums(const Places *s, size_t k, size_t end, const float *x, const float *d, size_t deep, int fresh,
                     float *out) {
  for (; k + MANY <= end; k += MANY) eight(s->index + k, x, d, deep, fresh, out + k);
  if (k == end) return;
  uint16_t index[MANY];
  float some[MANY];
  for (size_t i = 0; i < MANY; i++) index[i] = s->index[smaller(k + i, end - 1)];
  eight(index, x, d, deep, 1, some);
  for (size_t i = k; i < end; i++) out[i] = (fresh ? 0 : out[i]) + some[i - k];
}

/* out: as many numbers as there are weights, written where n > 0. x (n, columns), y (n, rows); room: (n rounded up to 16)
 * * (columns + rows) numbers. */
EXPORT void sparsernn_singles_gradient(const Places *s, const float *x, const float *y, float *out, float *room, int n,
                                       int threads) {
  size_t columns = (size_t)s->columns, rows = (size_t)s->rows, count = (size_t)n;
  float *turned = room + rounded(count, 16) * columns;
  TOGETHER(threads, {
    SHARE(columns, low, high)
    SHARE(rows, first, last)
    for (size_t from = 0; from < count; from += DEEP) {
      size_t some = smaller(DEEP, count - from), deep = rounded(some, 16);
      turn(x + from * columns, columns, some, low, high, room + from * columns, deep);
      turn(y + from * rows, rows, some, first, last, turned + from * rows, deep);
    }
    WAIT
    for (size_t from = 0; from < count; from += DEEP) {
      size_t deep = rounded(smaller(DEEP, count - from), 16);
      for (size_t strip = 0; strip < (size_t)s->strips; strip++) {
        const int32_t *start = s->start + strip * rows;
        for (size_t r = first; r < last; r++)
          row_sums(s, (size_t)start[r], (size_t)start[r + 1], room + from * columns, turned + from * rows + r * deep, deep,
                   from == 0, out);
      }
    }
  })
}

/* ---- Numbers at places, in any order ---- */

/* out[k] = in[place[k]] */
EXPORT void sparsernn_singles_take(const float *in, const int32_t *place, float *out, int64_t n, int threads) {
  TOGETHER(threads, {
    SHARE((size_t)n, first, last)
    for (size_t k = first; k < last; k++) out[k] = in[place[k]];
  })
}

/* out, `size` numbers, is 0 but for out[place[k]] = in[k]. */
EXPORT void sparsernn_singles_put(const float *in, const int32_t *place, float *out, int64_t n, int64_t size,
                                  int threads) {
  TOGETHER(threads, {
    SHARE((size_t)size, low, high)
    memset(out + low, 0, (high - low) * sizeof(float));
    WAIT
    SHARE((size_t)n, first, last)
    for (size_t k = first; k < last; k++) out[place[k]] = in[k];
  })
}
