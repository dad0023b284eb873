/* Products of weights that exist in blocks of up to 16 rows, in training: forward, back, and the gradient of the weights that
 * exist. Every sum is taken in one order, whatever the number of threads. */
#include "tiles.h"

#define TALL 16
#define PARTS (TALL / WIDTH)
/* Rows of x at once: with their sums in registers (24 of 32, or 12 of 16). */
#if WIDTH == 16
#define MOST 24
#else
#define MOST (12 / PARTS)
#endif
#define EVERY _Pragma("GCC unroll 24")
/* Numbers in the weights of panels that are gone through together: they stay in the second-level cache. */
#define NEAR (1 << 16)

static inline size_t panels_of(const Places *s) { return (size_t)s->panels; }
static inline size_t row_of(const Places *s, size_t p) { return (size_t)s->row[p]; }

/* The first panel of the share of thread `me`, by the number of blocks. */
static size_t panel_share(const Places *s, size_t me, size_t all) {
  size_t low = 0, high = panels_of(s);
  if (me == all) return high;
  int32_t wanted = (int32_t)((int64_t)s->start[high] * (int64_t)me / (int64_t)all);
  if (me == 0) return 0;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (s->start[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* The end of the panels from `p` on that are gone through together, at most `last`. */
static size_t near_end(const Places *s, size_t p, size_t last) {
  int32_t first = s->start[p++];
  while (p < last && (s->start[p + 1] - first) * TALL <= NEAR) p++;
  return p;
}

/* ---- Forward: y = base + x S' ---- */

typedef struct {
  const float *base;
  float *out;
  size_t base_stride, stride;
} Target;

/* `rows` rows of x, turned, with one panel; `rows` is a constant after inlining. */
static inline __attribute__((always_inline)) void panel_rows(const int rows, const Places *s, size_t p, const float *x,
                                                             const Target *to) {
  vw sum[MOST][PARTS];
  memset(sum, 0, sizeof sum);
  for (int32_t k = s->start[p]; k < s->start[p + 1]; k++) {
    const float *w = s->values + (size_t)k * TALL, *q = x + (size_t)s->index[k] * (size_t)rows;
    vw part[PARTS];
    const float *ahead = x + (size_t)s->index[k + 6] * (size_t)rows;
    __builtin_prefetch(ahead);
    if (rows > 12) __builtin_prefetch(ahead + 16);
    __builtin_prefetch(w + 32 * TALL);
    EVERY for (int i = 0; i < PARTS; i++) part[i] = *(const vw *)(w + i * WIDTH);
    EVERY for (int r = 0; r < rows; r++) EVERY for (int i = 0; i < PARTS; i++) sum[r][i] += part[i] * q[r];
  }
  size_t first = row_of(s, p), valid = row_of(s, p + 1) - first;
  EVERY for (int r = 0; r < rows; r++) {
    float line[TALL] = {0}, *out = to->out + (size_t)r * to->stride + first;
    const float *base = to->base ? to->base + (size_t)r * to->base_stride + first : line;
    if (valid == TALL) {
      EVERY for (int i = 0; i < PARTS; i++) *(vw *)(out + i * WIDTH) = *(const vw *)(base + i * WIDTH) + sum[r][i];
    } else {
      if (to->base) memcpy(line, base, valid * sizeof(float));
      for (int i = 0; i < PARTS; i++) *(vw *)(line + i * WIDTH) += sum[r][i];
      memcpy(out, line, valid * sizeof(float));
    }
  }
}

static void panel_of(size_t rows, const Places *s, size_t p, const float *x, const Target *to) {
#define CASE(n) \
  case n: panel_rows(n, s, p, x, to); break;
  switch (rows) {
    CASE(1) CASE(2) CASE(3)
#if MOST >= 6
    CASE(4) CASE(5) CASE(6)
#endif
#if MOST == 24
    CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12) CASE(13) CASE(14) CASE(15)
    CASE(16) CASE(17) CASE(18) CASE(19) CASE(20) CASE(21) CASE(22) CASE(23) CASE(24)
#endif
  }
#undef CASE
}

/* y (n, rows) = base + x (n, columns) S'. base: the same shape, y itself allowed, one row if `shared`, or NULL.
 * room: n * columns numbers. */
EXPORT void sparsernn_blocks_forward(const Places *s, const float *x, const float *base, float *y, float *room, int n,
                                     int shared, int threads) {
  size_t columns = (size_t)s->columns, rows = (size_t)s->rows, count = (size_t)n, tiles = (count + MOST - 1) / MOST;
  TOGETHER(threads, {
    SHARE(columns, low, high)
    for (size_t t = 0; t < tiles; t++) {
      size_t from = count * t / tiles, to = count * (t + 1) / tiles;
      for (size_t c = low; c < high; c += 4)  /* not in fours of rows: no zeros are wanted between tiles */
        for (size_t d = c; d < smaller(c + 4, high); d++)
          for (size_t i = from; i < to; i++) room[from * columns + d * (to - from) + i - from] = x[i * columns + d];
    }
    WAIT
    size_t last = panel_share(s, me + 1, all);
    for (size_t p = panel_share(s, me, all), end; p < last; p = end) {
      end = near_end(s, p, last);
      for (size_t t = 0; t < tiles; t++) {
        size_t from = count * t / tiles, to = count * (t + 1) / tiles, stride = shared ? 0 : rows;
        Target target = {base ? base + from * stride : NULL, y + from * rows, stride, rows};
        for (size_t q = p; q < end; q++) panel_of(to - from, s, q, room + from * columns, &target);
      }
    }
  })
}

/* ---- Back: x = base + y S ---- */

#if WIDTH == 16
#define HELD 16 /* rows of y whose numbers stay in registers */
#else
#define HELD 8
#endif

/* out[c][lane] += the sum over a panel's rows of S[row][c] y[row][lane], for its blocks k to end; y is (16, lanes). */
#define BACK(name, vector, lanes)                                                                                  \
  static void name(const Places *s, size_t k, size_t end, const float *y, float *out) {                            \
    for (size_t h = 0; h < TALL; h += HELD) {                                                                      \
      vector held[HELD];                                                                                           \
      EVERY for (size_t i = 0; i < HELD; i++) held[i] = *(const vector *)(y + (h + i) * lanes);                    \
      for (size_t j = k; j < end; j++) {                                                                           \
        const float *w = s->values + j * TALL + h;                                                                 \
        __builtin_prefetch(w + 24 * TALL);                                                                         \
        __builtin_prefetch(out + (size_t)s->index[j + 8] * lanes);                                                 \
        vector *o = (vector *)(out + (size_t)s->index[j] * lanes), even = *o, odd = w[1] * held[1];                \
        even += w[0] * held[0];                                                                                    \
        EVERY for (size_t i = 2; i < HELD; i += 2) even += w[i] * held[i], odd += w[i + 1] * held[i + 1];          \
        *o = even + odd;                                                                                           \
      }                                                                                                            \
    }                                                                                                              \
  }
BACK(back_4, v4, 4)
#if WIDTH >= 8
BACK(back_8, v8, 8)
#endif
#if WIDTH == 16
BACK(back_16, vw, 16)
#endif

/* Lanes that hold `count` rows, count up to WIDTH. */
static inline size_t lanes_for(size_t count) { return count <= 4 ? 4 : count <= 8 ? 8 : 16; }

static void back_of(size_t lanes, const Places *s, size_t k, size_t end, const float *y, float *out) {
#if WIDTH == 16
  if (lanes == 16) back_16(s, k, end, y, out);
#endif
#if WIDTH >= 8
  if (lanes == 8) back_8(s, k, end, y, out);
#endif
  if (lanes == 4) back_4(s, k, end, y, out);
}

/* Columns whose sums stay in the first-level cache, 512 of them in 16 lanes. */
#define STRIP (1 << 13)

/* The first block from k on, before `end`, that has a column of `column` or more. */
static size_t block_from(const Places *s, size_t k, size_t end, size_t column) {
  while (k < end) {
    size_t middle = (k + end) / 2;
    if (s->index[middle] < column) k = middle + 1;
    else end = middle;
  }
  return k;
}

/* A panel's 16 rows of y in `some` of its sequences, turned; rows beyond its last are 0. */
static void turn_panel(const Places *s, size_t p, const float *y, size_t some, float *out, size_t lanes) {
  size_t first = row_of(s, p), valid = row_of(s, p + 1) - first;
  if (valid < TALL) memset(out, 0, TALL * lanes * sizeof(float));
  turn(y + first, (size_t)s->rows, some, 0, valid, out, lanes);
}

#define TURNED 32 /* panels that are gone through together, at most */

/* The panels first <= p < last and the columns low <= c < high; sums is (columns, lanes). */
static void back_panels(const Places *s, size_t first, size_t last, size_t low, size_t high, const float *y, size_t some,
                        float *sums) {
  size_t lanes = lanes_for(some), at[TURNED];
  float turned[TURNED][TALL * WIDTH] __attribute__((aligned(64)));
  for (size_t p = first; p < last; p++) {
    turn_panel(s, p, y, some, turned[p - first], lanes);
    at[p - first] = block_from(s, (size_t)s->start[p], (size_t)s->start[p + 1], low);
  }
  for (size_t c = low; c < high; c += STRIP / lanes)
    for (size_t p = first; p < last; p++) {
      size_t k = at[p - first], end = block_from(s, k, (size_t)s->start[p + 1], smaller(c + STRIP / lanes, high));
      back_of(lanes, s, k, end, turned[p - first], sums);
      at[p - first] = end;
    }
}

/* x (n, columns) = base + y (n, rows) S; base as above, for x. room: (n rounded up to 16) * columns numbers. Threads
 * share out the columns. */
EXPORT void sparsernn_blocks_back(const Places *s, const float *y, const float *base, float *x, float *room, int n,
                                  int shared, int threads) {
  size_t columns = (size_t)s->columns, rows = (size_t)s->rows, count = (size_t)n, panels = panels_of(s);
  TOGETHER(threads, {
    SHARE(columns, low, high)
    for (size_t from = 0; from < count; from += WIDTH) {
      size_t lanes = lanes_for(smaller(WIDTH, count - from));
      memset(room + from * columns + low * lanes, 0, (high - low) * lanes * sizeof(float));
    }
    for (size_t p = 0, end; p < panels; p = end) {
      end = smaller(near_end(s, p, panels), p + TURNED);
      for (size_t from = 0; from < count; from += WIDTH)
        back_panels(s, p, end, low, high, y + from * rows, smaller(WIDTH, count - from), room + from * columns);
    }
    for (size_t from = 0; from < count; from += WIDTH) {
      size_t some = smaller(WIDTH, count - from), lanes = lanes_for(some), stride = shared ? 0 : columns;
      turn_back(room + from * columns + low * lanes, lanes, some, low, high, base ? base + from * stride : NULL, stride,
                x + from * columns, columns);
    }
  })
}

/* ---- Gradient: values[block][row] = the sum over n of y[n][row] x[n][column] ---- */

#define DEEP 128 /* rows at once: what all columns need of them stays in the second-level cache */
#define WIDE (12 / PARTS) /* blocks at once */

/* `many` neighbouring blocks of a panel: out (many, 16) = what is there, unless `fresh`, and the sums over `count` rows;
 * x is (columns, deep), y (count, 16). */
static inline __attribute__((always_inline)) void blocks_sums(const int many, const uint16_t *index, const float *x,
                                                              size_t deep, const float *y, size_t count, int fresh,
                                                              float *out) {
  vw sum[WIDE][PARTS];
  const float *q[WIDE];
  EVERY for (int b = 0; b < many; b++) {
    q[b] = x + (size_t)index[b] * deep;
    EVERY for (int i = 0; i < PARTS; i++) sum[b][i] = fresh ? (vw){0} : *(vw *)(out + b * TALL + i * WIDTH);
  }
  size_t n = 0;
#if WIDTH == 16  /* in fours: there are not enough registers for the places in x, which are then read a quarter as often */
  for (; n + 4 <= count; n += 4) {
    vw part[4];
    EVERY for (size_t j = 0; j < 4; j++) part[j] = *(const vw *)(y + (n + j) * TALL);
    EVERY for (int b = 0; b < many; b++) EVERY for (size_t j = 0; j < 4; j++) sum[b][0] += part[j] * q[b][n + j];
  }
#endif
  for (; n < count; n++) {
    vw part[PARTS];
    EVERY for (int i = 0; i < PARTS; i++) part[i] = *(const vw *)(y + n * TALL + i * WIDTH);
    EVERY for (int b = 0; b < many; b++) EVERY for (int i = 0; i < PARTS; i++) sum[b][i] += part[i] * q[b][n];
  }
  EVERY for (int b = 0; b < many; b++) EVERY for (int i = 0; i < PARTS; i++) *(vw *)(out + b * TALL + i * WIDTH) =
      sum[b][i];
}

static void panel_sums(const Places *s, size_t p, const float *x, size_t deep, const float *y, size_t count, int fresh,
                       float *out) {
  size_t k = (size_t)s->start[p], end = (size_t)s->start[p + 1];
  for (; k + WIDE <= end; k += WIDE) blocks_sums(WIDE, s->index + k, x, deep, y, count, fresh, out + k * TALL);
  for (; k + 2 <= end; k += 2) blocks_sums(2, s->index + k, x, deep, y, count, fresh, out + k * TALL);
  if (k < end) blocks_sums(1, s->index + k, x, deep, y, count, fresh, out + k * TALL);
}

/* out: as many numbers as there are values, written where n > 0. x (n, columns), y (n, rows); room: (n rounded up to 16)
 * * columns numbers. */
EXPORT void sparsernn_blocks_gradient(const Places *s, const float *x, const float *y, float *out, float *room, int n,
                                      int threads) {
  size_t columns = (size_t)s->columns, rows = (size_t)s->rows, count = (size_t)n;
  TOGETHER(threads, {
    SHARE(columns, low, high)
    for (size_t from = 0; from < count; from += DEEP) {
      size_t some = smaller(DEEP, count - from);
      turn(x + from * columns, columns, some, low, high, room + from * columns, rounded(some, 16));
    }
    WAIT
    for (size_t from = 0; from < count; from += DEEP) {
      size_t some = smaller(DEEP, count - from), last = panel_share(s, me + 1, all);
      for (size_t p = panel_share(s, me, all); p < last; p++) {
        float packed[DEEP * TALL] __attribute__((aligned(64)));
        size_t first = row_of(s, p), valid = row_of(s, p + 1) - first;
        if (valid < TALL) memset(packed, 0, sizeof packed);
        for (size_t i = 0; i < some; i++)
          memcpy(packed + i * TALL, y + (from + i) * rows + first, valid * sizeof(float));
        panel_sums(s, p, room + from * columns, rounded(some, 16), packed, some, from == 0, out);
      }
    }
  })
}

/* ---- Values from a dense weight (rows, columns), and back ---- */

EXPORT void sparsernn_blocks_take(const Places *s, const float *dense, float *values, int threads) {
  size_t columns = (size_t)s->columns;
  TOGETHER(threads, {
    size_t last = panel_share(s, me + 1, all);
    for (size_t p = panel_share(s, me, all); p < last; p++) {
      size_t first = row_of(s, p), valid = row_of(s, p + 1) - first;
      const float *in = dense + first * columns;
      for (int32_t k = s->start[p]; k < s->start[p + 1]; k++)
        for (size_t i = 0; i < TALL; i++)
          values[(size_t)k * TALL + i] = i < valid ? in[i * columns + s->index[k]] : 0;
    }
  })
}

/* The dense weight with zeros wherever there is no block. */
EXPORT void sparsernn_blocks_put(const Places *s, const float *values, float *dense, int threads) {
  size_t columns = (size_t)s->columns;
  TOGETHER(threads, {
    size_t last = panel_share(s, me + 1, all);
    for (size_t p = panel_share(s, me, all); p < last; p++) {
      size_t first = row_of(s, p), valid = row_of(s, p + 1) - first;
      float *out = dense + first * columns;
      memset(out, 0, valid * columns * sizeof(float));
      for (int32_t k = s->start[p]; k < s->start[p + 1]; k++)
        for (size_t i = 0; i < valid; i++) out[i * columns + s->index[k]] = values[(size_t)k * TALL + i];
    }
  })
}
